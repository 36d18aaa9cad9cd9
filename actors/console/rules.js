// The rules behind the alerts: list, add, change, remove.
import { html, notify, useState, useStore } from "./lib.js";
import { mayWrite, reloadAll, rulesFeed, segment, send, sourcesFeed } from "./api.js";
import { Choice, Confirm, Dialog, Empty, Field, Form, Icon, IconButton, Loading, ProblemNote, Severity } from "./ui.js";
import { duration } from "./format.js";

const TYPES = {
  crowd: { text: "Crowd", what: "more objects in a zone than a limit", own: { zone: "", zones: [], above: 5, clear_below: "" } },
  intrusion: { text: "Intrusion", what: "anybody in a zone", own: { zone: "" } },
  line: { text: "Line", what: "somebody crosses a line", own: { line: "", direction: "any" } },
  loitering: { text: "Loitering", what: "somebody stays in a zone for long", own: { zone: "", dwell_s: 60 } },
  source_offline: { text: "Camera away", what: "a camera is offline", own: { source: "*" } },
  source_tampered: { text: "Camera tampered with", what: "a camera is covered, blurred, frozen or moved", own: { source: "*" } },
};
const SHARED = { severity: "warning", for_s: 0, clear_for_s: 0, cooldown_s: 0 };
const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const SCHEDULE = { days: DAYS, start: "08:00:00", end: "18:00:00", timezone: Intl.DateTimeFormat().resolvedOptions().timeZone };
const EVIDENCE = { picture: true, clip: false, before_s: 5, after_s: 5, blur: true, clip_unblurred: false };
const FIELDS = ["name", "severity", "zone", "zones", "line", "source", "above", "clear_below", "direction", "dwell_s", "for_s", "clear_for_s", "cooldown_s", "start", "end", "timezone", "before_s", "after_s", "evidence"];

const target = (rule) => rule.zone || rule.line || rule.zones?.join(" + ") || (rule.source === "*" ? "any camera" : rule.source);

/** "more than 5, for 2 s". */
function condition(rule) {
  const held = rule.for_s > 0 ? `, for ${duration(rule.for_s)}` : "";
  switch (rule.type) {
    case "crowd":
      return `more than ${rule.above}${held}`;
    case "line":
      return rule.direction === "any" ? "either way" : `crossed ${rule.direction}`;
    case "loitering":
      return `longer than ${duration(rule.dwell_s)}${held}`;
    case "intrusion":
      return `anybody inside${held}`;
    case "source_tampered":
      return `not its usual view${held}`;
    default:
      return `offline${held}`;
  }
}

const numbers = ["above", "clear_below", "dwell_s", "for_s", "clear_for_s", "cooldown_s"];

/** The rule as the API wants it, from what was typed. */
function toRule(form) {
  const rule = { name: form.name.trim(), type: form.type };
  for (const name of [...Object.keys(TYPES[form.type].own), ...Object.keys(SHARED)]) {
    const value = form[name];
    rule[name] = numbers.includes(name) ? (value === "" || value === null ? null : Number(value)) : value;
  }
  if (rule.type === "crowd") {
    rule.zone = form.chosen.length === 1 ? form.chosen[0] : null;
    rule.zones = form.chosen.length > 1 ? form.chosen : [];
  }
  rule.schedule = form.scheduled ? form.schedule : null;
  if (form.evidence) rule.evidence = form.evidence;
  return rule;
}

function toForm(rule) {
  const form = { ...rule, chosen: rule.zone ? [rule.zone] : (rule.zones ?? []), scheduled: Boolean(rule.schedule), schedule: rule.schedule ?? SCHEDULE };
  return { ...form, clear_below: rule.clear_below ?? "", evidence: rule.evidence ?? null };
}

const empty = (zones) => ({ name: "", type: "crowd", ...SHARED, chosen: zones.slice(0, 1), scheduled: false, schedule: SCHEDULE, evidence: null, ...TYPES.crowd.own });

const Options = ({ values, label }) => html`
  <option value="" disabled>${label}</option>
  ${values.map((value) => html`<option key=${value} value=${value}>${value}</option>`)}
`;

function Target({ form, set, input, problem, places }) {
  const toggle = (path, on) => set({ chosen: on ? [...form.chosen, path] : form.chosen.filter((one) => one !== path) });
  const none = (kind) => html`<p class="problem"><${Icon} name="warning" /><span>No camera has a ${kind} yet. Draw one on the camera's page.</span></p>`;
  switch (form.type) {
    case "crowd":
      return html`
        ${places.zones.length
          ? html`<fieldset>
              <legend>Zones, counted together</legend>
              <div class="choices scroll">
                ${places.zones.map((path) => html`<${Choice} key=${path} label=${path} checked=${form.chosen.includes(path)} onChange=${(event) => toggle(path, event.target.checked)} />`)}
              </div>
              ${(problem?.at("zone") ?? problem?.at("zones")) && html`<small class="reason">${problem.at("zone") ?? problem.at("zones")}</small>`}
            </fieldset>`
          : none("zone")}
        <div class="columns">
          <${Field} label="Raise above" type="number" min="0" step="1" hint="objects" reason=${problem?.at("above")} ...${input("above")} />
          <${Field} label="Clear below" type="number" min="1" step="1" hint="empty: when it is no longer above" reason=${problem?.at("clear_below")} ...${input("clear_below")} />
        </div>
      `;
    case "line":
      if (!places.lines.length) return none("line");
      return html`<div class="columns">
        <${Field} label="Line" reason=${problem?.at("line")} ...${input("line")}><${Options} values=${places.lines} label="Choose a line" /><//>
        <${Field} label="Direction" reason=${problem?.at("direction")} ...${input("direction")}>
          <option value="any">either way</option><option value="in">in</option><option value="out">out</option>
        <//>
      </div>`;
    case "source_offline":
    case "source_tampered":
      return html`<${Field} label="Camera" reason=${problem?.at("source")} ...${input("source")}>
        <option value="*">any camera</option>
        ${places.sources.map((id) => html`<option key=${id} value=${id}>${id}</option>`)}
      <//>`;
    default:
      if (!places.zones.length) return none("zone");
      return html`<div class="columns">
        <${Field} label="Zone" reason=${problem?.at("zone")} ...${input("zone")}><${Options} values=${places.zones} label="Choose a zone" /><//>
        ${form.type === "loitering" && html`<${Field} label="Stays for" type="number" min="1" step="any" hint="seconds" reason=${problem?.at("dwell_s")} ...${input("dwell_s")} />`}
      </div>`;
  }
}

function Schedule({ schedule, set, problem }) {
  const change = (values) => set({ schedule: { ...schedule, ...values } });
  const toggle = (day, on) => change({ days: DAYS.filter((one) => (one === day ? on : schedule.days.includes(one))) });
  const clock = (name) => ({ type: "time", value: schedule[name].slice(0, 5), onInput: (event) => change({ [name]: `${event.target.value}:00` }) });
  return html`
    <div class="choices">${DAYS.map((day) => html`<${Choice} key=${day} label=${day} checked=${schedule.days.includes(day)} onChange=${(event) => toggle(day, event.target.checked)} />`)}</div>
    <div class="columns">
      <${Field} label="From" reason=${problem?.at("start")} ...${clock("start")} />
      <${Field} label="Until" reason=${problem?.at("end")} ...${clock("end")} />
      <${Field} label="Time zone" value=${schedule.timezone} reason=${problem?.at("timezone")} onInput=${(event) => change({ timezone: event.target.value })} />
    </div>
  `;
}

function Evidence({ evidence, set, problem }) {
  const change = (values) => set({ evidence: { ...evidence, ...values } });
  const seconds = (name) => ({ type: "number", min: 0, step: "any", value: evidence[name], onInput: (event) => change({ [name]: Number(event.target.value) }) });
  return html`
    <div class="choices">
      <${Choice} label="picture" checked=${evidence.picture} onChange=${(event) => change({ picture: event.target.checked })} />
      <${Choice} label="clip" checked=${evidence.clip} onChange=${(event) => change({ clip: event.target.checked })} />
      <${Choice} label="others unrecognisable in the picture" checked=${evidence.blur} onChange=${(event) => change({ blur: event.target.checked })} />
      ${evidence.clip &&
      evidence.blur &&
      html`<${Choice} label="the clip may show everybody" checked=${evidence.clip_unblurred} onChange=${(event) => change({ clip_unblurred: event.target.checked })} />`}
    </div>
    ${problem?.at("evidence") && html`<small class="reason">${problem.at("evidence")}</small>`}
    ${evidence.clip &&
    html`<div class="columns">
      <${Field} label="Clip from, seconds before" reason=${problem?.at("before_s")} ...${seconds("before_s")} />
      <${Field} label="to, seconds after" reason=${problem?.at("after_s")} ...${seconds("after_s")} />
    </div>`}
  `;
}

function RuleForm({ rule, places, onClose }) {
  const [form, setForm] = useState(() => (rule ? toForm(rule) : empty(places.zones)));
  const set = (values) => setForm({ ...form, ...values });
  const input = (name) => ({ value: form[name] ?? "", onInput: (event) => set({ [name]: event.target.value }) });
  const turn = (event) => {
    const type = event.target.value;
    const first = { zone: places.zones[0] ?? "", line: places.lines[0] ?? "" };
    const own = Object.fromEntries(Object.entries(TYPES[type].own).map(([name, value]) => [name, first[name] ?? value]));
    set({ type, ...own });
  };
  const save = async () => {
    const changed = toRule(form);
    if (rule) await send("PUT", `v1/rules/${segment(rule.name)}`, changed);
    else await send("POST", "v1/rules", changed);
    notify(`The rule ${changed.name} is ${rule ? "changed" : "added"}.`);
    await reloadAll();
    onClose();
  };
  return html`<${Dialog} title=${rule ? `Rule ${rule.name}` : "Add a rule"} onClose=${onClose}>
    <${Form} submit=${rule ? "Save" : "Add rule"} onSubmit=${save} onClose=${onClose} fields=${FIELDS}>
      ${(problem) => html`
        <div class="columns">
          <${Field} label="Name" autocomplete="off" disabled=${Boolean(rule)} reason=${problem?.at("name")} ...${input("name")} />
          <${Field} label="Severity" reason=${problem?.at("severity")} ...${input("severity")}>
            ${["info", "warning", "critical"].map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
          <//>
        </div>
        <${Field} label="When" value=${form.type} onInput=${turn} disabled=${Boolean(rule)}>
          ${Object.entries(TYPES).map(([type, { text, what }]) => html`<option key=${type} value=${type}>${text}: ${what}</option>`)}
        <//>
        <${Target} form=${form} set=${set} input=${input} problem=${problem} places=${places} />
        <div class="columns">
          ${form.type !== "line" && html`<${Field} label="Held for" type="number" min="0" step="any" hint="seconds, before it is raised" reason=${problem?.at("for_s")} ...${input("for_s")} />`}
          <${Field} label="Over for" type="number" min="0" step="any" hint="seconds, before it clears" reason=${problem?.at("clear_for_s")} ...${input("clear_for_s")} />
          <${Field} label="Cooldown" type="number" min="0" step="any" hint="seconds between two alerts" reason=${problem?.at("cooldown_s")} ...${input("cooldown_s")} />
        </div>
        <${Choice} label="Only at certain times" checked=${form.scheduled} onChange=${(event) => set({ scheduled: event.target.checked })} />
        ${form.scheduled && html`<${Schedule} schedule=${form.schedule} set=${set} problem=${problem} />`}
        ${form.type !== "source_offline" &&
        html`<${Choice} label="Keep evidence" checked=${Boolean(form.evidence)} onChange=${(event) => set({ evidence: event.target.checked ? EVIDENCE : null })} />`}
        ${form.evidence && html`<${Evidence} evidence=${form.evidence} set=${set} problem=${problem} />`}
      `}
    <//>
  <//>`;
}

/** Everything that a rule may name. */
function placesOf(sources) {
  const paths = (kind) => sources.flatMap((source) => source[kind].map(({ name }) => `${source.id}/${name}`));
  return { zones: paths("zones"), lines: paths("lines"), sources: sources.map(({ id }) => id) };
}

export function Rules() {
  const { data: rules, problem } = useStore(rulesFeed());
  const sources = useStore(sourcesFeed()).data ?? [];
  const [dialog, setDialog] = useState(null); // {change: rule or null} or {remove: rule}
  const remove = async (rule) => {
    await send("DELETE", `v1/rules/${segment(rule.name)}`);
    notify(`The rule ${rule.name} is removed.`);
    await reloadAll();
    setDialog(null);
  };
  if (!rules) return problem ? html`<${ProblemNote} problem=${problem} onRetry=${() => rulesFeed().reload()} />` : html`<${Loading} what="the rules" />`;
  const add = mayWrite() && html`<button type="button" onClick=${() => setDialog({ change: null })}><${Icon} name="add" /> Add rule</button>`;
  return html`
    ${rules.length === 0
      ? html`<${Empty} icon="bell" title="No rules yet"><p>A rule raises an alert, with an event on the topic of alerts.</p>${add}<//>`
      : html`<section class="card stack">
          <div class="page-head"><h2>Rules</h2><div class="buttons">${add}</div></div>
          <div class="table">
            <table>
              <thead><tr><th>Name</th><th>Severity</th><th>Type</th><th>Where</th><th>When</th><th>Evidence</th><th><span class="visually-hidden">Actions</span></th></tr></thead>
              <tbody>
                ${rules.map(
                  (rule) => html`<tr key=${rule.name} data-rule=${rule.name}>
                    <td><strong>${rule.name}</strong></td>
                    <td><${Severity} value=${rule.severity} /></td>
                    <td>${TYPES[rule.type].text}</td>
                    <td>${target(rule)}</td>
                    <td>${condition(rule)}${rule.schedule && html` <small>${rule.schedule.start.slice(0, 5)} to ${rule.schedule.end.slice(0, 5)}</small>`}</td>
                    <td>${[rule.evidence?.picture && "picture", rule.evidence?.clip && "clip"].filter(Boolean).join(", ") || "–"}</td>
                    <td class="figures-right">
                      ${mayWrite() &&
                      html`<${IconButton} icon="edit" label="Change ${rule.name}" onClick=${() => setDialog({ change: rule })} />
                        <${IconButton} icon="remove" label="Remove ${rule.name}" onClick=${() => setDialog({ remove: rule })} />`}
                    </td>
                  </tr>`,
                )}
              </tbody>
            </table>
          </div>
        </section>`}
    <${ProblemNote} problem=${problem} />
    ${dialog && "change" in dialog && html`<${RuleForm} rule=${dialog.change} places=${placesOf(sources)} onClose=${() => setDialog(null)} />`}
    ${dialog?.remove &&
    html`<${Confirm}
      title="Remove the rule ${dialog.remove.name}?"
      text="It raises no more alerts. What it has raised is cleared."
      submit="Remove"
      onConfirm=${() => remove(dialog.remove)}
      onClose=${() => setDialog(null)}
    />`}
  `;
}
