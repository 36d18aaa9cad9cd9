// One camera: its picture, what was counted, how fast it is, and the editor of its zones and lines.
import { askBeforeLeaving, go, href, html, notify, useEffect, useMemo, useState, useStore } from "./lib.js";
import { activeAlertsFeed, feed, getBlob, mayWrite, reloadAll, request, segment, send, serviceFeed } from "./api.js";
import { begin, isChanged, reduce } from "./draft.js";
import { live } from "./live.js";
import { Chart } from "./charts.js";
import { Drift } from "./drift.js";
import { Editor } from "./editor.js";
import { EditorPanel } from "./editor_panel.js";
import { shapeColour } from "./overlay.js";
import { Picture } from "./picture.js";
import { RemoveSource, SourceForm } from "./source_form.js";
import { Confirm, Empty, Figure, Icon, IconButton, Loading, ProblemNote, Severity, StateBadge, stateOf } from "./ui.js";
import { alertText, fps, ms, percent, time } from "./format.js";

const RANGES = [
  { seconds: 300, text: "5 min", periodS: 2 },
  { seconds: 1800, text: "30 min", periodS: 4 },
  { seconds: 86_400, text: "24 h", periodS: 30 },
];
const LEAST_STEPS = 30;
const MANY = 4; // series of which the sum says more in one look

const total = (values) => values.reduce((sum, value) => sum + (value ?? 0), 0);
const seriesOf = (named) => Object.entries(named).map(([label, values]) => ({ label, values }));

/** Crossings of every line over the whole range, {line: {in, out}}. */
const crossingsOf = (history) =>
  Object.fromEntries(Object.entries(history?.crossings ?? {}).map(([line, way]) => [line, { in: total(way.in), out: total(way.out) }]));

function Counts({ source, crossings, range }) {
  const { zones, lines, status } = source;
  if (!zones.length && !lines.length) {
    return html`<section class="card">
      <h2>Counts</h2>
      <p><small>Nothing is counted yet. ${mayWrite() ? "Draw a zone or a line on the picture." : "This camera has no zones and no lines."}</small></p>
    </section>`;
  }
  return html`<section class="card">
    <h2>Counts</h2>
    <table>
      <tbody>
        ${zones.map(
          (zone, i) => html`<tr key=${zone.name}>
            <td><span class="swatch" style=${{ "--swatch": shapeColour(i) }}></span> ${zone.name}</td>
            <td class="figures-right"><strong data-zone=${zone.name}>${status.occupancy?.[zone.name] ?? 0}</strong> now</td>
          </tr>`,
        )}
        ${lines.map(
          (line, i) => html`<tr key=${line.name}>
            <td><span class="swatch" style=${{ "--swatch": shapeColour(zones.length + i) }}></span> ${line.name}</td>
            <td class="figures-right">
              <strong>${crossings[line.name]?.in ?? 0}</strong> in, <strong>${crossings[line.name]?.out ?? 0}</strong> out <small>in ${range.text}</small>
            </td>
          </tr>`,
        )}
      </tbody>
    </table>
  </section>`;
}

function Health({ history }) {
  const states = (history?.health ?? []).toReversed();
  return html`<section class="card">
    <h2>Health</h2>
    ${!states.length && html`<p><small>No change of state in this time.</small></p>`}
    <ul class="timeline">
      ${states.map(
        ({ at, state, reason }) => html`<li key=${`${at}${state}`}><time>${time(at * 1000)}</time><${StateBadge} state=${state} />${reason && html`<small>${reason}</small>`}</li>`,
      )}
    </ul>
  </section>`;
}

function Settings({ source }) {
  const { status } = source;
  const rows = {
    Address: html`<span class="mono">${source.uri}</span>`,
    Detector: source.detector,
    "Frames per second": source.fps ?? "all",
    Picture: status.width ? `${status.width} × ${status.height}` : "–",
    Decoded: html`${status.decode}${source.decode_setting === "auto" ? " (auto)" : ""} <small>${status.decode_reason}</small>`,
    Gate: source.gate_setting,
    View: html`${status.tampered || "as usual"} <small>watched: ${source.tamper_setting}</small>`,
    Reconnects: status.reconnects,
    "Runs on": source.actor ?? "–",
    Origin: { config: "the config file", api: "added here", changed: "the config file, changed here" }[source.origin] ?? source.origin,
  };
  return html`<section class="card">
    <h2>Settings</h2>
    <dl class="pairs">${Object.entries(rows).map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${value}</dd>`)}</dl>
  </section>`;
}

function ActiveAlerts({ id }) {
  const mine = (useStore(activeAlertsFeed()).data?.items ?? []).filter((alert) => alert.source_id === id);
  return mine.map(
    (alert) => html`<a key=${alert.alert_id} class="card figure-link" href=${href("alerts")}>
      <${Severity} value=${alert.severity} /> <strong>${alert.rule}</strong>: ${alertText(alert)} <small>since ${time(alert.raised_at)}</small>
    </a>`,
  );
}

/** Without the time before anything was known of the camera, but for a minute at least. */
function known(history) {
  const first = history.fps.findIndex((value) => value !== null);
  const begin = Math.max(0, Math.min(first, history.t.length - LEAST_STEPS));
  const cut = (part) => (Array.isArray(part) ? part.slice(begin) : Object.fromEntries(Object.entries(part).map(([name, values]) => [name, cut(values)])));
  const { t, fps: rate, latency_ms, stages_ms, dropped, occupancy } = history;
  return { step_s: history.step_s, ...cut({ t, fps: rate, latency_ms, stages_ms, dropped, occupancy }) };
}

function Charts({ history: whole, slo }) {
  const history = useMemo(() => known(whole), [whole]);
  const { t, latency_ms: latency, stages_ms: stages, occupancy, dropped } = history;
  const objective = slo ? [{ label: `objective ${slo.latency_ms} ms`, values: t.map(() => slo.latency_ms), limit: true }] : [];
  const perSecond = (values) => values.map((value) => (value === null ? null : value / history.step_s));
  const lost = Object.fromEntries(Object.entries(dropped).map(([reason, values]) => [reason, perSecond(values)]));
  const zones = seriesOf(occupancy);
  return html`
    <${Chart} title="In the zones" t=${t} series=${zones} format=${(value) => String(+value.toFixed(1))} stepped note=${zones.length > MANY ? `${zones.length} zones` : ""} />
    <${Chart} title="Latency" note="capture to acknowledgement" t=${t} series=${[...seriesOf(latency), ...objective]} format=${ms} />
    <${Chart} title="Latency by stage" note="mean" t=${t} series=${seriesOf(stages)} format=${ms} />
    <${Chart} title="Analysed" note="frames per second" t=${t} series=${[{ label: "analysed", values: history.fps }]} format=${fps} />
    <${Chart} title="Not analysed" note="frames per second, by reason" t=${t} series=${seriesOf(lost)} format=${fps} stepped />`;
}

/**
 * Zones and lines are edited in a draft; what is on the service stays as it is until it is saved. `tag` tells the service which
 * version was edited, so that nobody else's change is overwritten.
 */
function useDraft(id) {
  const [draft, setDraft] = useState(null);
  const [tag, setTag] = useState("");
  const dispatch = useMemo(() => (action) => setDraft((old) => old && reduce(old, action)), []);
  const changed = Boolean(draft && isChanged(draft));
  useEffect(() => (changed ? askBeforeLeaving("The changes of zones and lines are not saved. Leave them?") : undefined), [changed]);
  const edit = async () => {
    try {
      const answer = await request("GET", `v1/sources/${segment(id)}`);
      setTag(answer.headers.get("ETag"));
      setDraft(begin(await answer.json()));
    } catch (problem) {
      notify(problem.message, "bad");
    }
  };
  return { draft, tag, dispatch, edit, close: () => setDraft(null) };
}

async function savePicture(id) {
  const address = URL.createObjectURL(await getBlob(`v1/sources/${segment(id)}/picture?boxes=true&width=1920`));
  Object.assign(document.createElement("a"), { href: address, download: `${id}.jpg` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function Page({ source, service, history, range, setRange, problem }) {
  const [dialog, setDialog] = useState("");
  const { draft, tag, dispatch, edit, close } = useDraft(source.id);
  const { status } = source;
  const crossings = useMemo(() => crossingsOf(history), [history]);
  const classes = service?.detectors[source.detector]?.classes ?? [];
  const reset = async () => {
    await send("POST", `v1/sources/${segment(source.id)}/reset`);
    notify(`${source.id} is as the config file has it again.`);
    await reloadAll();
    setDialog("");
  };
  const missed = status.slo_attainment !== null && service && status.slo_attainment < service.slo.objective;
  return html`
    <div class="page-head">
      <a href=${href("wall")} class="icon-button" aria-label="All cameras" title="All cameras"><${Icon} name="back" /></a>
      <h1>${source.id}</h1>
      <${StateBadge} state=${stateOf(source)} />
      ${status.reason && html`<small>${status.reason}</small>`}
      <div class="buttons">
        <${IconButton} icon="download" label="Save the picture" onClick=${() => savePicture(source.id).catch((caught) => notify(caught.message, "bad"))} />
        ${mayWrite() &&
        html`
          ${source.origin === "changed" && html`<${IconButton} icon="reset" label="Back to the config file" onClick=${() => setDialog("reset")} />`}
          <${IconButton} icon="remove" label="Remove ${source.id}" onClick=${() => setDialog("remove")} />
          <button type="button" class="secondary outline" onClick=${() => setDialog("settings")}>Settings</button>
          <button type="button" disabled=${Boolean(draft)} onClick=${edit}><${Icon} name="edit" /> Edit zones and lines</button>
        `}
      </div>
    </div>
    <${ProblemNote} problem=${problem} />
    <div class="camera">
      <div class="view">
        <${Picture} source=${source} label="Live picture of ${source.id}" detailed shapes=${!draft} crossings=${crossings}>
          ${({ shownWidth, ratio }) => draft && html`<${Editor} draft=${draft} dispatch=${dispatch} shownWidth=${shownWidth} ratio=${ratio} />`}
        <//>
      </div>
      <div class="stack">
        ${draft
          ? html`<${EditorPanel} source=${source} tag=${tag} draft=${draft} dispatch=${dispatch} classes=${classes} onDone=${close} />`
          : html`
              <dl class="figures">
                <${Figure} label="Analysed" value=${fps(status.measured_fps)} />
                <${Figure} label="Within ${service?.slo.latency_ms ?? "–"} ms" value=${percent(status.slo_attainment)} kind=${missed ? "warn" : ""} />
                <${Figure} label="Latency p95" value=${ms(status.latency_ms?.p95)} />
              </dl>
              <${ActiveAlerts} id=${source.id} />
              <${Counts} source=${source} crossings=${crossings} range=${range} />
              <${Health} history=${history} />
            `}
      </div>
    </div>
    <div class="page-head">
      <h2>History</h2>
      <div class="segments" role="group" aria-label="Time shown">
        ${RANGES.map((one) => html`<button key=${one.seconds} type="button" aria-pressed=${one === range} onClick=${() => setRange(one)}>${one.text}</button>`)}
      </div>
    </div>
    <div class="charts">
      ${history ? html`<${Charts} history=${history} slo=${service?.slo} />` : html`<${Loading} what="the history" />`}
      ${status.analysed > 0 && html`<${Drift} id=${source.id} />`}
      <${Settings} source=${source} />
    </div>
    ${dialog === "settings" && html`<${SourceForm} source=${source} onClose=${() => setDialog("")} />`}
    ${dialog === "remove" && html`<${RemoveSource} source=${source} onClose=${() => setDialog("")} onDone=${() => go("wall")} />`}
    ${dialog === "reset" &&
    html`<${Confirm}
      title="Back to the config file?"
      text="All changes of ${source.id} that were made here or over the API are forgotten."
      submit="Forget them"
      onConfirm=${reset}
      onClose=${() => setDialog("")}
    />`}
  `;
}

export function Camera({ id }) {
  const [range, setRange] = useState(RANGES[0]);
  const { data: source, problem } = useStore(feed(`v1/sources/${segment(id)}`, 2));
  const service = useStore(serviceFeed()).data;
  const history = useStore(feed(`v1/sources/${segment(id)}/history?seconds=${range.seconds}`, range.periodS));
  useEffect(() => live.view(1280, 10), []);
  if (problem?.status === 404) {
    return html`<${Empty} icon="camera" title="There is no camera ${id}"><p><a href=${href("wall")}>All cameras</a></p><//>`;
  }
  if (!source) return problem ? html`<${ProblemNote} problem=${problem} />` : html`<${Loading} what=${id} />`;
  return html`<${Page} source=${source} service=${service} history=${history.data} range=${range} setRange=${setRange} problem=${problem ?? history.problem} />`;
}
