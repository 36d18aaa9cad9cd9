// The wall: every camera with its live picture, and how all of them are together.
import { html, useEffect, useMemo, useState, useStore } from "./lib.js";
import { href } from "./lib.js";
import { activeAlertsFeed, mayWrite, serviceFeed, sourcesFeed } from "./api.js";
import { live } from "./live.js";
import { Picture } from "./picture.js";
import { RemoveSource, SourceForm } from "./source_form.js";
import { Empty, Figure, Icon, IconButton, Loading, ProblemNote, StateBadge, stateOf } from "./ui.js";
import { fps, percent, plural } from "./format.js";

const STATES = ["online", "asleep", "tampered", "connecting", "offline", "failed", "finished"];
const WIDTHS_PX = { large: 960, medium: 640, small: 480 }; // of the pictures, by the size of the tiles
const sum = (values) => values.reduce((total, value) => total + value, 0);
export const peopleIn = (source) => sum(Object.values(source.status.occupancy ?? {}));

function Tile({ source, alerts, objective, onRemove }) {
  const { status } = source;
  const state = stateOf(source);
  const zones = source.zones.length;
  const label = `${source.id}: ${state}${zones ? `, ${plural(peopleIn(source), "object")} in its zones` : ""}`;
  const missed = status.slo_attainment !== null && status.slo_attainment < objective;
  return html`
    <article class="tile ${alerts.length ? "alerting" : ""}" data-source=${source.id} data-state=${state}>
      <a href=${href("camera", source.id)} aria-label=${label}>
        <${Picture} source=${source} label="Live picture of ${source.id}">
          ${alerts.length > 0 && html`<span class="alert-flag"><${Icon} name="bell" /> ${alerts[0].rule}${alerts.length > 1 ? ` +${alerts.length - 1}` : ""}</span>`}
        <//>
      </a>
      <footer>
        <h3><a href=${href("camera", source.id)}>${source.id}</a></h3>
        <${StateBadge} state=${state} />
        ${zones > 0 && html`<span class="count" title="In its zones now"><${Icon} name="people" />${peopleIn(source)}</span>`}
        <span class="rest">
          <span title="Analysed frames per second">${fps(status.measured_fps)}</span>
          <span class=${missed ? "missed" : ""} title="Frames within the latency objective">
            ${missed && html`<${Icon} name="warning" /> `}${percent(status.slo_attainment)}
          </span>
          ${mayWrite() && html`<${IconButton} icon="remove" label="Remove ${source.id}" onClick=${() => onRemove(source)} />`}
        </span>
      </footer>
    </article>
  `;
}

function Summary({ sources, alerts, service }) {
  const states = sources.map(stateOf);
  const count = (...wanted) => states.filter((state) => wanted.includes(state)).length;
  const judged = sources.filter((source) => source.status.slo_attainment !== null);
  const attainment = judged.length ? sum(judged.map((source) => source.status.slo_attainment)) / judged.length : null;
  const away = count("offline", "failed");
  return html`
    <dl class="figures">
      <${Figure} label="Cameras online" value=${count("online", "asleep", "tampered")} note=" of ${sources.length}${count("asleep") ? `, ${count("asleep")} asleep` : ""}" />
      <${Figure} label="Away" value=${away} kind=${away ? "bad" : ""} />
      <${Figure} label="In zones now" value=${sum(sources.map(peopleIn))} />
      <${Figure}
        label="Within ${service?.slo.latency_ms ?? "–"} ms"
        value=${percent(attainment)}
        kind=${attainment !== null && service && attainment < service.slo.objective ? "warn" : ""}
      />
      <a class="figure-link" href=${href("alerts")}>
        <${Figure} label="Active alerts" value=${alerts.length} kind=${alerts.length ? "warn" : ""} />
      </a>
    </dl>
  `;
}

export function Wall() {
  const { data: sources, problem } = useStore(sourcesFeed());
  const alerts = useStore(activeAlertsFeed()).data?.items ?? [];
  const service = useStore(serviceFeed()).data;
  const [search, setSearch] = useState("");
  const [state, setState] = useState("");
  const [dialog, setDialog] = useState(null); // "add", or the source that is to be removed
  const shown = useMemo(
    () => (sources ?? []).filter((one) => one.id.toLowerCase().includes(search.toLowerCase()) && (!state || stateOf(one) === state)),
    [sources, search, state],
  );
  const size = shown.length <= 4 ? "large" : shown.length <= 12 ? "medium" : "small";
  useEffect(() => live.view(WIDTHS_PX[size], 4), [size]);
  if (!sources) return problem ? html`<${ProblemNote} problem=${problem} onRetry=${() => sourcesFeed().reload()} />` : html`<${Loading} what="the cameras" />`;
  const add = mayWrite() && html`<button type="button" onClick=${() => setDialog("add")}><${Icon} name="add" /> Add camera</button>`;
  return html`
    <h1 class="visually-hidden">Cameras</h1>
    <${ProblemNote} problem=${problem} />
    <${Summary} sources=${sources} alerts=${alerts} service=${service} />
    <div class="toolbar">
      <input type="search" placeholder="Find a camera" aria-label="Find a camera" value=${search} onInput=${(event) => setSearch(event.target.value)} />
      <select aria-label="State" value=${state} onInput=${(event) => setState(event.target.value)}>
        <option value="">All states</option>
        ${STATES.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
      </select>
      ${add}
    </div>
    ${sources.length === 0 &&
    html`<${Empty} icon="camera" title="No cameras yet">
      <p>Add one by its address, or name it under <code>sources</code> in the config. For a try: <code>simulate://plaza?people=20</code></p>
      ${add}
    <//>`}
    ${sources.length > 0 &&
    shown.length === 0 &&
    html`<${Empty} icon="camera" title="No camera matches">
      <button type="button" class="secondary outline" onClick=${() => (setSearch(""), setState(""))}>Show all ${sources.length}</button>
    <//>`}
    <div class="wall ${size}">
      ${shown.map(
        (source) => html`<${Tile}
          key=${source.id}
          source=${source}
          objective=${service?.slo.objective ?? 0}
          alerts=${alerts.filter((alert) => alert.source_id === source.id)}
          onRemove=${setDialog}
        />`,
      )}
    </div>
    ${dialog === "add" && html`<${SourceForm} onClose=${() => setDialog(null)} />`}
    ${dialog && dialog !== "add" && html`<${RemoveSource} source=${dialog} onClose=${() => setDialog(null)} />`}
  `;
}
