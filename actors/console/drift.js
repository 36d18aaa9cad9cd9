// Drift of a camera: what is found in it lately, over what usually is.
import { html, useStore } from "./lib.js";
import { feed, segment } from "./api.js";
import { Icon, Loading, ProblemNote } from "./ui.js";
import { duration, number, percent } from "./format.js";

const WORTH_A_LOOK = 0.1; // as the alert FramewatchDrift has it
const EVERY_S = 60; // as often as the service brings its histograms up to date
const NAMES = { confidence: "Confidence", height: "Height", class: "Class", objects: "Objects in a frame" };
const HEIGHT = 36; // of a histogram, in its own units; a bin is 10 wide

/** What a bin holds, for those who point at it. */
function binText(feature, bins, i) {
  if (feature === "class") return bins[i];
  const [begin, end] = [bins[i], bins[i + 1]];
  const text = feature === "objects" ? (value) => String(value) : percent;
  return end === undefined ? `${text(begin)} and more` : `${text(begin)} to ${text(end)}`;
}

/** Without the classes that are never found here. */
function found({ bins, recent, usual }) {
  const some = (_, i) => recent[i] > 0 || usual[i] > 0;
  return { bins: bins.filter(some), recent: recent.filter(some), usual: usual.filter(some) };
}

/** Bars of what is found lately, and the outline of what usually is. */
function Histogram({ name, feature, comparison }) {
  const { bins, recent, usual } = feature === "class" ? found(comparison) : comparison;
  const most = Math.max(...recent, ...usual);
  const y = (share) => HEIGHT * (1 - share / most);
  const outline = usual.map((share, i) => `${i ? "L" : "M"}${10 * i} ${y(share)}H${10 * (i + 1)}`).join("");
  const mostly = (shares) => binText(feature, bins, shares.indexOf(Math.max(...shares)));
  const label = `${name}: lately mostly ${mostly(recent)}, usually ${mostly(usual)}`;
  return html`
    <svg class="histogram" viewBox="0 0 ${10 * bins.length} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label=${label}>
      ${recent.map(
        (share, i) => html`<rect key=${i} x=${10 * i} width="10" y=${y(share)} height=${HEIGHT - y(share)}>
          <title>${binText(feature, bins, i)}: lately ${percent(share)}, usually ${percent(usual[i])}</title>
        </rect>`,
      )}
      <path d=${outline} />
    </svg>
  `;
}

function Feature({ feature, comparison }) {
  const name = NAMES[feature] ?? feature;
  const { psi } = comparison;
  const apart = psi !== null && psi > WORTH_A_LOOK && feature !== "objects"; // more people are no fault of the model
  return html`
    <dt>${name}</dt>
    <dd>
      ${comparison.recent_samples > 0 && comparison.usual_samples > 0
        ? html`<${Histogram} name=${name} feature=${feature} comparison=${comparison} />`
        : html`<small>nothing yet</small>`}
    </dd>
    <dd class=${apart ? "missed" : ""}>${apart && html`<${Icon} name="warning" /> `}${number(psi, 2)}</dd>
  `;
}

/** @param id of a camera of which frames have been analysed. */
export function Drift({ id }) {
  const drift = feed(`v1/sources/${segment(id)}/drift`, EVERY_S);
  const { data, problem } = useStore(drift);
  if (!data) {
    const missing = problem ? html`<${ProblemNote} problem=${problem} onRetry=${() => drift.reload()} />` : html`<${Loading} what="what is usual" />`;
    return html`<section class="card"><h2>Drift</h2>${missing}</section>`;
  }
  const hours = (value) => duration(value * 3600);
  return html`
    <section class="card drift">
      <h2>Drift<small>bars: found lately; line: found usually</small></h2>
      ${data.learned_h < data.learn_h &&
      html`<p><small>What is usual here is still being learned: ${hours(data.learned_h)} of ${hours(data.learn_h)}.</small></p>`}
      <dl>${Object.entries(data.features).map(([feature, comparison]) => html`<${Feature} key=${feature} feature=${feature} comparison=${comparison} />`)}</dl>
      <p><small>Figures are the population stability index; above ${WORTH_A_LOOK} a look at the camera, or at its model, is worth while.</small></p>
    </section>
  `;
}
