// The service as a whole: is the objective held, what runs, is everything ready.
import { href, html, now, useStore } from "./lib.js";
import { feed, serviceFeed, session, signOut } from "./api.js";
import { Figure, Icon, Loading, ProblemNote } from "./ui.js";
import { duration, fullTime, ms, number, percent, plural } from "./format.js";

const FAST_BURN = 14.4; // 2 % of a 30-day budget in an hour: the SRE Workbook's page
const SLOW_BURN = 1; // the budget is used up exactly as fast as it may be

const burnKind = (rate) => (rate === null || rate === undefined ? "" : rate >= FAST_BURN ? "bad" : rate > SLOW_BURN ? "warn" : "");
const burnText = { bad: "far too fast", warn: "too fast", "": "within the budget" };

function Objective({ slo }) {
  const { total, objective, latency_ms: latencyMs } = slo;
  const left = total.error_budget_remaining;
  return html`<section class="card stack">
    <h2>Objective <small>${+(objective * 100).toFixed(3)} % of the analysed frames within ${latencyMs} ms</small></h2>
    <dl class="figures">
      <${Figure} label="Within ${latencyMs} ms" value=${percent(total.attainment)} kind=${total.attainment !== null && total.attainment < objective ? "warn" : ""} />
      <${Figure} label="p50" value=${ms(total.latency_ms.p50)} />
      <${Figure} label="p95" value=${ms(total.latency_ms.p95)} />
      <${Figure} label="p99" value=${ms(total.latency_ms.p99)} />
    </dl>
    <div>
      <label for="budget">Error budget left: <strong>${left === null ? "–" : `${Math.round(left * 100)} %`}</strong>${left < 0 ? " (overspent)" : ""}</label>
      <progress id="budget" class="budget" max="1" value=${Math.max(0, left ?? 0)}></progress>
    </div>
    <table>
      <thead><tr><th>Burn rate over</th><th class="figures-right">rate</th><th>the budget is spent</th></tr></thead>
      <tbody>
        ${Object.entries(total.burn_rates).map(
          ([window, rate]) => html`<tr key=${window}>
            <td>${window}</td>
            <td class="figures-right ${burnKind(rate)}"><strong>${number(rate, 2)}</strong></td>
            <td>${rate === null ? "–" : burnText[burnKind(rate)]}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </section>`;
}

function Sources({ slo }) {
  const worst = Object.entries(slo.sources).toSorted(([, a], [, b]) => (a.attainment ?? 2) - (b.attainment ?? 2));
  return html`<section class="card">
    <h2>By camera <small>the worst first</small></h2>
    <div class="table tall">
      <table>
        <thead><tr><th>Camera</th><th class="figures-right">Within</th><th class="figures-right">p50</th><th class="figures-right">p95</th><th class="figures-right">p99</th><th class="figures-right">Budget left</th></tr></thead>
        <tbody>
          ${worst.map(
            ([id, view]) => html`<tr key=${id}>
              <td><a href=${href("camera", id)}>${id}</a></td>
              <td class="figures-right ${view.attainment !== null && view.attainment < slo.objective ? "missed" : ""}">
                ${view.attainment !== null && view.attainment < slo.objective && html`<${Icon} name="warning" /> `}${percent(view.attainment)}
              </td>
              <td class="figures-right">${ms(view.latency_ms.p50)}</td>
              <td class="figures-right">${ms(view.latency_ms.p95)}</td>
              <td class="figures-right">${ms(view.latency_ms.p99)}</td>
              <td class="figures-right">${view.error_budget_remaining === null ? "–" : `${Math.round(view.error_budget_remaining * 100)} %`}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}

function Ready({ service }) {
  const { data, problem } = useStore(feed("readyz", 5));
  const nowMs = useStore(now);
  const state = data ?? (problem?.status === 503 && problem.body.reasons ? problem.body : null);
  const { token, access } = useStore(session);
  return html`<section class="card stack">
    <h2>Service</h2>
    ${state?.ready && html`<p><span class="badge good"><span class="mark" aria-hidden="true"></span>ready</span> every part answers, and events reach their sinks</p>`}
    ${state &&
    !state.ready &&
    html`<div class="problem" role="alert">
      <${Icon} name="warning" />
      <div>Not ready: <ul>${state.reasons.map((reason) => html`<li key=${reason}>${reason}</li>`)}</ul></div>
    </div>`}
    ${!state && problem && html`<${ProblemNote} problem=${problem} />`}
    <dl class="pairs">
      <dt>Version</dt><dd>${service.version}</dd>
      <dt>Started</dt><dd>${fullTime(service.started_at * 1000)}, ${duration(nowMs / 1000 - service.started_at)} ago</dd>
      <dt>Cameras</dt><dd>${service.sources}</dd>
      <dt>Signed in as</dt><dd>${access?.name ? `${access.name} (${access.role})` : "nobody: access is not restricted"}</dd>
      <dt>API</dt><dd><a href="openapi.json">openapi.json</a>, <a href="metrics">metrics</a></dd>
    </dl>
    ${token && html`<div><button type="button" class="secondary outline" onClick=${() => signOut()}><${Icon} name="out" /> Sign out</button></div>`}
  </section>`;
}

const Detectors = ({ detectors }) => html`<section class="card">
  <h2>Detectors</h2>
  <div class="table">
    <table>
      <thead><tr><th>Name</th><th>Model</th><th>Input</th><th>Classes</th><th class="figures-right">Replicas</th></tr></thead>
      <tbody>
        ${Object.entries(detectors).map(
          ([name, detector]) => html`<tr key=${name}>
            <td><strong>${name}</strong></td>
            <td>${detector.model}<br /><small class="mono">${detector.model_id}</small></td>
            <td>${detector.input.width} × ${detector.input.height}</td>
            <td title=${detector.classes.join(", ")}>${detector.classes.length <= 4 ? detector.classes.join(", ") : plural(detector.classes.length, "class", "classes")}</td>
            <td class="figures-right">${detector.replicas ?? "–"}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>
</section>`;

export function Service() {
  const { data: service, problem } = useStore(serviceFeed());
  const slo = useStore(feed("v1/slo", 3));
  if (!service) return problem ? html`<${ProblemNote} problem=${problem} />` : html`<${Loading} what="the service" />`;
  return html`
    <h1 class="visually-hidden">Service</h1>
    <${ProblemNote} problem=${problem ?? slo.problem} />
    <div class="two">
      ${slo.data ? html`<${Objective} slo=${slo.data} />` : html`<${Loading} what="the objective" />`}
      <div class="stack"><${Ready} service=${service} /><${Detectors} detectors=${service.detectors} /></div>
    </div>
    ${slo.data && html`<${Sources} slo=${slo.data} />`}
  `;
}
