// Alerts: what is raised now, what was, its evidence, and the rules behind them.
import { href, html, notify, now, useEffect, useState, useStore } from "./lib.js";
import { activeAlertsFeed, get, getBlob, mayWrite, reloadAll, rulesFeed, segment, send, sourcesFeed } from "./api.js";
import { Rules } from "./rules.js";
import { Dialog, Empty, Form, Icon, Loading, ProblemNote, Severity } from "./ui.js";
import { ago, alertText, duration, fullTime, time } from "./format.js";

const PAGE = 30;
const MOST_SHOWN = 300; // of the history; older ones are found with the filters
const RETRIES = 5; // evidence follows its alert within seconds
const RETRY_S = 2;

/** A file that is fetched with the token: {url, missing}. The URL is given back when it is not shown any more. */
function useFile(path) {
  const [file, setFile] = useState({ url: "", missing: false });
  useEffect(() => {
    if (!path) return undefined;
    const ended = new AbortController();
    let [url, timer] = ["", 0];
    const load = async (tries) => {
      try {
        url = URL.createObjectURL(await getBlob(path, ended.signal));
        if (ended.signal.aborted) URL.revokeObjectURL(url);
        else setFile({ url, missing: false });
      } catch (problem) {
        if (ended.signal.aborted) return;
        if (problem.status === 404 && tries < RETRIES) timer = setTimeout(load, RETRY_S * 1000, tries + 1);
        else setFile({ url: "", missing: true });
      }
    };
    load(0);
    return () => {
      ended.abort();
      clearTimeout(timer);
      if (url) URL.revokeObjectURL(url);
      setFile({ url: "", missing: false });
    };
  }, [path]);
  return file;
}

const pathOf = (alert, kind) => `v1/alerts/${segment(alert.alert_id)}/${kind}`;

/** The picture that was kept of an alert; a press shows it large, with the clip where there is one. */
function Evidence({ alert, onOpen }) {
  const kept = alert.evidence?.picture;
  const { url, missing } = useFile(kept ? pathOf(alert, "picture") : "");
  if (!kept) return null;
  const text = missing ? "The picture is no longer kept." : "Waiting for the picture …";
  return html`<button type="button" class="evidence" aria-label="Evidence of ${alert.rule}, ${time(alert.raised_at)}" disabled=${!url} onClick=${() => onOpen(alert)}>
    ${url ? html`<img src=${url} alt="Picture of the alert ${alert.rule}" />` : html`<span class="none">${text}</span>`}
  </button>`;
}

function EvidenceDialog({ alert, onClose }) {
  const picture = useFile(alert.evidence?.picture ? pathOf(alert, "picture") : "");
  const clip = useFile(alert.evidence?.clip ? pathOf(alert, "clip") : "");
  return html`<${Dialog} title="${alert.rule}, ${time(alert.raised_at)}" onClose=${onClose} wide>
    <div class="stack">
      ${clip.url
        ? html`<video class="evidence-large" src=${clip.url} poster=${picture.url || undefined} controls autoplay muted loop></video>`
        : picture.url && html`<img class="evidence-large" src=${picture.url} alt="Picture of the alert ${alert.rule}" />`}
      ${alert.evidence?.clip && !clip.url && html`<p><small>${clip.missing ? "The clip is no longer kept." : "Waiting for the clip …"}</small></p>`}
      <p>${alertText(alert)} on ${alert.source_id}, ${fullTime(alert.raised_at)}</p>
    </div>
  <//>`;
}

function AcknowledgeDialog({ alert, onClose, onDone }) {
  const [note, setNote] = useState("");
  const save = async () => {
    const changed = await send("POST", `${pathOf(alert, "acknowledge")}`, { note: note.trim() });
    notify(`${alert.rule} is acknowledged.`);
    onDone(changed);
    await reloadAll();
    onClose();
  };
  return html`<${Dialog} title="Acknowledge ${alert.rule}" onClose=${onClose}>
    <${Form} submit="Acknowledge" onSubmit=${save} onClose=${onClose}>
      ${() => html`
        <p>${alertText(alert)} on ${alert.source_id}, since ${time(alert.raised_at)}. Others see that it is seen to; it clears by itself.</p>
        <div class="field">
          <label for="note">Note</label>
          <textarea id="note" rows="3" maxlength="500" placeholder="What was found, what is done" value=${note} onInput=${(event) => setNote(event.target.value)}></textarea>
        </div>
      `}
    <//>
  <//>`;
}

const Acknowledged = ({ value }) => html`<p class="ack"><${Icon} name="check" /> ${value.by}, ${time(value.at)}${value.note && html`: ${value.note}`}</p>`;

function ActiveAlert({ alert, onOpen, onAcknowledge }) {
  const nowMs = useStore(now);
  return html`
    <article class="alert raised ${alert.severity}" data-alert=${alert.alert_id}>
      <${Evidence} alert=${alert} onOpen=${onOpen} />
      <div class="body">
        <div class="buttons"><${Severity} value=${alert.severity} /><strong>${alert.rule}</strong></div>
        <p class="what">${alertText(alert)}</p>
        <p class="when">
          ${alert.source_id === "*" ? "several cameras" : html`<a href=${href("camera", alert.source_id)}>${alert.source_id}</a>`} ·
          <time title=${fullTime(alert.raised_at)}> ${time(alert.raised_at)}</time> · ${ago(alert.raised_at, nowMs)}
        </p>
        ${alert.acknowledged
          ? html`<${Acknowledged} value=${alert.acknowledged} />`
          : mayWrite() && html`<div><button type="button" class="small" onClick=${() => onAcknowledge(alert)}><${Icon} name="check" /> Acknowledge</button></div>`}
      </div>
    </article>
  `;
}

/** Past alerts, the newest first; older ones are fetched when asked for. */
function History({ onOpen, onAcknowledge, revision }) {
  const [filter, setFilter] = useState({ rule: "", source: "" });
  const [list, setList] = useState({ items: null, next: null, problem: null });
  const rules = useStore(rulesFeed()).data ?? [];
  const sources = useStore(sourcesFeed()).data ?? [];
  const load = async (before, items) => {
    const query = new URLSearchParams({ state: "all", limit: PAGE });
    for (const [name, value] of Object.entries({ ...filter, before })) if (value) query.set(name, value);
    try {
      const page = await get(`v1/alerts?${query}`);
      setList({ items: [...items, ...page.items].slice(0, MOST_SHOWN), next: page.next, problem: null });
    } catch (problem) {
      setList((old) => ({ ...old, problem }));
    }
  };
  useEffect(() => void load("", []), [filter, revision]);
  const choose = (name) => (event) => setFilter({ ...filter, [name]: event.target.value });
  const { items, next, problem } = list;
  return html`
    <section class="card stack">
      <h2>History</h2>
      <div class="toolbar">
        <select aria-label="Rule" value=${filter.rule} onInput=${choose("rule")}>
          <option value="">All rules</option>
          ${rules.map(({ name }) => html`<option key=${name} value=${name}>${name}</option>`)}
        </select>
        <select aria-label="Camera" value=${filter.source} onInput=${choose("source")}>
          <option value="">All cameras</option>
          ${sources.map(({ id }) => html`<option key=${id} value=${id}>${id}</option>`)}
        </select>
      </div>
      <${ProblemNote} problem=${problem} onRetry=${() => load("", [])} />
      ${!items && !problem && html`<${Loading} what="the history" />`}
      ${items?.length === 0 && html`<p class="placeholder">No alert so far.</p>`}
      ${items?.length > 0 &&
      html`<div class="table">
        <table>
          <thead>
            <tr><th>Raised</th><th>Severity</th><th>Rule</th><th>Camera</th><th>What</th><th>Lasted</th><th>Evidence</th><th>Acknowledged</th></tr>
          </thead>
          <tbody>
            ${items.map(
              (alert) => html`<tr key=${alert.alert_id}>
                <td><time title=${fullTime(alert.raised_at)}>${time(alert.raised_at)}</time></td>
                <td><${Severity} value=${alert.severity} /></td>
                <td>${alert.rule}</td>
                <td>${alert.source_id}</td>
                <td>${alertText(alert)}</td>
                <td>${alert.cleared_at ? duration((new Date(alert.cleared_at) - new Date(alert.raised_at)) / 1000) : html`<strong>active</strong>`}</td>
                <td>
                  ${alert.evidence?.picture || alert.evidence?.clip
                    ? html`<button type="button" class="secondary outline small" onClick=${() => onOpen(alert)}><${Icon} name=${alert.evidence.clip ? "clip" : "camera"} /> Show</button>`
                    : "–"}
                </td>
                <td>
                  ${alert.acknowledged
                    ? html`<${Acknowledged} value=${alert.acknowledged} />`
                    : mayWrite() && html`<button type="button" class="secondary outline small" aria-label="Acknowledge ${alert.rule} of ${time(alert.raised_at)}" onClick=${() => onAcknowledge(alert)}>Acknowledge</button>`}
                </td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>`}
      ${next && items.length < MOST_SHOWN && html`<button type="button" class="secondary outline" onClick=${() => load(next, items)}>Older</button>`}
    </section>
  `;
}

function Active({ onOpen, onAcknowledge }) {
  const { data, problem } = useStore(activeAlertsFeed());
  const rules = useStore(rulesFeed()).data;
  if (!data) return problem ? html`<${ProblemNote} problem=${problem} />` : html`<${Loading} what="the alerts" />`;
  if (!data.items.length) {
    return html`<${Empty} icon="check" title="Nothing is raised">
      ${rules?.length === 0
        ? html`<p>There are no rules yet. <a href=${href("alerts", "rules")}>Add one</a>: a crowd, somebody in a zone, a crossing, a camera that is away.</p>`
        : html`<p>An alert shows here within a second.</p>`}
    <//>`;
  }
  return html`<div class="alert-list">
    ${data.items.map((alert) => html`<${ActiveAlert} key=${alert.alert_id} alert=${alert} onOpen=${onOpen} onAcknowledge=${onAcknowledge} />`)}
  </div>`;
}

export function Alerts({ tab }) {
  const [shown, setShown] = useState(null);
  const [acknowledging, setAcknowledging] = useState(null);
  const [revision, setRevision] = useState(0);
  const active = useStore(activeAlertsFeed()).data?.items ?? [];
  const ids = active.map((alert) => alert.alert_id).join();
  const inRules = tab === "rules";
  return html`
    <div class="page-head">
      <h1>Alerts</h1>
      <nav class="segments" aria-label="Alerts and rules">
        <a href=${href("alerts")} aria-current=${inRules ? undefined : "page"}>Alerts</a>
        <a href=${href("alerts", "rules")} aria-current=${inRules ? "page" : undefined}>Rules</a>
      </nav>
    </div>
    ${inRules
      ? html`<${Rules} />`
      : html`
          <${Active} onOpen=${setShown} onAcknowledge=${setAcknowledging} />
          <${History} onOpen=${setShown} onAcknowledge=${setAcknowledging} revision=${`${revision} ${ids}`} />
        `}
    ${shown && html`<${EvidenceDialog} alert=${shown} onClose=${() => setShown(null)} />`}
    ${acknowledging && html`<${AcknowledgeDialog} alert=${acknowledging} onClose=${() => setAcknowledging(null)} onDone=${() => setRevision(revision + 1)} />`}
  `;
}
