// Small parts that every page uses.
import { html, useEffect, useId, useRef, useState } from "./lib.js";

const PATHS = {
  wall: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  bell: "M6 17V11a6 6 0 0 1 12 0v6l1.5 2h-15zM10 21.5h4",
  pulse: "M3 12h4l3-8 4 16 3-8h4",
  add: "M12 5v14M5 12h14",
  edit: "M4 20h4L19.5 8.5l-4-4L4 16zM13.5 6.5l4 4",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
  sun: "M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M5 19l1.4-1.4M17.6 6.4 19 5",
  moon: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
  out: "M14 4H6v16h8M10 12h11M17.5 8.5 21 12l-3.5 3.5",
  back: "M15 5l-7 7 7 7",
  camera: "M3 7h12v10H3zM15 11l6-3v8l-6-3",
  check: "M4.5 12.5l5 5L20 7",
  cross: "M6 6l12 12M18 6L6 18",
  people: "M9 5a3 3 0 1 1 0 6 3 3 0 0 1 0-6zM3 20c0-4 2.5-6 6-6s6 2 6 6M16 5.5a3 3 0 0 1 0 5.5M17.5 14.5c2.3.7 3.5 2.6 3.5 5.5",
  zone: "M5 8l8-4 7 6-3 10H6z",
  line: "M5 19L19 5M8 8.5l7.5 7.5M15.5 12v4h-4",
  undo: "M8 5L4 9l4 4M4 9h10a6 6 0 0 1 0 12h-3",
  swap: "M7 4L3 8l4 4M3 8h16M17 12l4 4-4 4M21 16H5",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  warning: "M12 4L2.5 20h19zM12 10v4.5M12 17.2v.3",
  clip: "M4 6h16v12H4zM10 9.5v5l4.5-2.5z",
  reset: "M4 12a8 8 0 1 0 3-6.2M4 4v4.5h4.5",
};

/** A line drawing; what it stands for is said by the text beside it, or by the button's label. */
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;

/** A button that shows an icon only. */
export const IconButton = ({ icon, label, ...rest }) =>
  html`<button type="button" class="icon-button" aria-label=${label} title=${label} ...${rest}><${Icon} name=${icon} /></button>`;

const BADGES = {
  online: ["good", "online"],
  asleep: ["calm", "asleep"],
  connecting: ["calm", "connecting"],
  finished: ["calm", "finished"],
  offline: ["bad", "offline"],
  tampered: ["bad", "tampered"],
  restored: ["good", "view restored"],
  failed: ["bad", "failed"],
  slo_breached: ["bad", "objective missed"],
  slo_recovered: ["good", "objective held"],
};

export function stateOf({ status }) {
  if (status.state !== "online") return status.state;
  if (status.tampered) return "tampered";
  return status.asleep ? "asleep" : "online";
}

/** The state of a camera, in words and with a mark of its own shape. */
export function StateBadge({ state }) {
  const [kind, text] = BADGES[state] ?? ["calm", state];
  return html`<span class="badge ${kind}"><span class="mark" aria-hidden="true"></span>${text}</span>`;
}

export const Severity = ({ value }) => html`<span class="badge severity ${value}"><span class="mark" aria-hidden="true"></span>${value}</span>`;

/** A figure with its name. */
export const Figure = ({ label, value, kind = "", note }) => html`
  <div class="figure ${kind}">
    <dt>${label}</dt>
    <dd>${value}${note && html`<small>${note}</small>`}</dd>
  </div>
`;

export const Loading = ({ what }) => html`<p class="placeholder" aria-busy="true">Loading ${what} …</p>`;

export const Empty = ({ icon, title, children }) => html`
  <div class="placeholder empty">
    <${Icon} name=${icon} />
    <p><strong>${title}</strong></p>
    ${children}
  </div>
`;

/** Why something failed, and what goes on. */
export const ProblemNote = ({ problem, onRetry }) =>
  problem &&
  html`<div class="problem" role="alert">
    <${Icon} name="warning" />
    <span>${problem.message}</span>
    ${onRetry && html`<button type="button" class="secondary outline small" onClick=${onRetry}>Try again</button>`}
  </div>`;

/** What a problem says that no field shows. */
export function formProblem(problem, fields) {
  if (!problem) return null;
  const shown = fields.some((field) => problem.at(field));
  const others = problem.errors.filter((error) => !fields.some((field) => error.field === field || error.field?.endsWith(`.${field}`)));
  if (shown && !others.length) return null;
  return others.length ? others.map(({ field, reason }) => (field ? `${field}: ${reason}` : reason)).join("; ") : problem.message;
}

/** A labelled input of a form; `reason` says what the service found wrong with it. */
export function Field({ label, hint, reason, children, ...input }) {
  const id = useId();
  const note = reason ?? hint;
  const described = note ? { "aria-describedby": `${id}-note` } : {};
  const control = children
    ? html`<select id=${id} aria-invalid=${reason ? "true" : undefined} ...${described} ...${input}>${children}</select>`
    : html`<input id=${id} aria-invalid=${reason ? "true" : undefined} ...${described} ...${input} />`;
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${control}${note && html`<small id="${id}-note" class=${reason ? "reason" : ""}>${note}</small>`}
  </div>`;
}

export const Choice = ({ label, ...input }) => html`<label class="choice"><input type="checkbox" ...${input} />${label}</label>`;

/** A modal dialog: the browser keeps the focus inside, and Escape closes it. */
export function Dialog({ title, onClose, children, wide = false }) {
  const dialog = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    dialog.current.querySelector("form :is(input, select, textarea):not(:disabled), form button")?.focus();
    return () => before?.isConnected && before.focus();
  }, []);
  const onCancel = (event) => {
    event.preventDefault();
    onClose();
  };
  return html`
    <dialog ref=${dialog} aria-labelledby=${id} onCancel=${onCancel} onMouseDown=${(event) => event.target === dialog.current && onClose()}>
      <article class=${wide ? "wide" : ""}>
        <header>
          <h2 id=${id}>${title}</h2>
          <${IconButton} icon="cross" label="Close" onClick=${onClose} />
        </header>
        ${children}
      </article>
    </dialog>
  `;
}

/** Fields and two buttons. `onSubmit` may throw a Problem, which is shown; `children(problem)` draws the fields. */
export function Form({ submit, onSubmit, onClose, fields = [], danger = false, children }) {
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await onSubmit();
    } catch (caught) {
      if (caught.status === undefined) throw caught;
      setProblem(caught);
    } finally {
      setBusy(false);
    }
  };
  const general = formProblem(problem, fields);
  return html`
    <form onSubmit=${send} novalidate>
      ${children(problem)} ${general && html`<p class="problem" role="alert"><${Icon} name="warning" /><span>${general}</span></p>`}
      <footer>
        ${onClose && html`<button type="button" class="secondary outline" onClick=${onClose}>Cancel</button>`}
        <button type="submit" class=${danger ? "danger" : ""} aria-busy=${busy} disabled=${busy}>${submit}</button>
      </footer>
    </form>
  `;
}

/** Ask before something is lost. */
export const Confirm = ({ title, text, submit, onConfirm, onClose }) => html`
  <${Dialog} title=${title} onClose=${onClose}>
    <${Form} submit=${submit} danger onSubmit=${onConfirm} onClose=${onClose}>${() => html`<p>${text}</p>`}<//>
  <//>
`;
