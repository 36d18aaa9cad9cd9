// Beside the editor: the list of zones and lines, what is set of the selected one, and saving.
import { html, notify, useState } from "./lib.js";
import { reloadAll, segment, send } from "./api.js";
import { isChanged, selectedShape, shapeOfError, toSource } from "./draft.js";
import { coloursOf } from "./editor.js";
import { Choice, Confirm, Field, Icon } from "./ui.js";

const ANCHORS = { bottom_center: "its feet (bottom centre)", center: "its centre", top_center: "its head (top centre)" };

/** What is set of one shape. `reasons`: what the service found wrong, by key. */
function Settings({ shape, classes, reasons, dispatch }) {
  const edit = (values) => dispatch({ type: "edit", key: shape.key, values });
  const toggle = (name, on) => {
    const chosen = new Set(shape.classes ?? classes);
    if (on) chosen.add(name);
    else chosen.delete(name);
    edit({ classes: chosen.size === classes.length || !chosen.size ? null : classes.filter((one) => chosen.has(one)) });
  };
  return html`
    <div class="stack">
      <${Field}
        label="Name"
        value=${shape.name}
        autocomplete="off"
        hint="Letters, digits, dot, dash and underscore."
        reason=${reasons.name}
        onInput=${(event) => edit({ name: event.target.value })}
      />
      <${Field}
        label="An object is where it has"
        value=${shape.anchor}
        reason=${reasons.anchor}
        onInput=${(event) => edit({ anchor: event.target.value })}
      >
        ${Object.entries(ANCHORS).map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}
      <//>
      ${classes.length > 1 &&
      classes.length <= 12 &&
      html`<fieldset>
        <legend>Counts</legend>
        <div class="choices">
          ${classes.map(
            (name) => html`<${Choice} key=${name} label=${name} checked=${(shape.classes ?? classes).includes(name)} onChange=${(event) => toggle(name, event.target.checked)} />`,
          )}
        </div>
      </fieldset>`}
      ${reasons.other && html`<p class="problem" role="alert"><${Icon} name="warning" /><span>${reasons.other}</span></p>`}
      <div class="buttons">
        ${shape.kind === "line" &&
        html`<button type="button" class="secondary outline small" onClick=${() => dispatch({ type: "swap", key: shape.key })}><${Icon} name="swap" /> Turn the arrow</button>`}
        <button type="button" class="secondary outline small" onClick=${() => (dispatch({ type: "select", key: shape.key }), dispatch({ type: "remove" }))}>
          <${Icon} name="remove" /> Delete ${shape.kind}
        </button>
      </div>
      ${shape.kind === "line" && html`<p><small>Who crosses the line along its arrow is counted as “in”.</small></p>`}
    </div>
  `;
}

/** The reasons of a problem for each shape, {shape key: {name: reason, other: reason}}, and what is left to say. */
function sorted(problem, draft) {
  const reasons = new Map();
  const left = [];
  for (const { field, reason } of problem?.errors ?? []) {
    const found = shapeOfError(draft, field);
    if (!found) {
      left.push(field ? `${field}: ${reason}` : reason);
      continue;
    }
    const key = ["name", "anchor"].includes(found.key) ? found.key : "other";
    reasons.set(found.shape.key, { ...reasons.get(found.shape.key), [key]: reason });
  }
  if (problem?.status === 412) left.push("Somebody else has changed this camera meanwhile. Discard, and edit what there is now.");
  else if (problem && !problem.errors.length) left.push(problem.message);
  return { reasons, left };
}

const HELP = {
  zone: ["Click the corners of the zone on the picture.", "Click the first corner again to close it, or press Enter."],
  line: ["Click where the line begins, then where it ends.", "The arrow shows which way counts as “in”."],
};

export function EditorPanel({ source, tag, draft, dispatch, classes, onDone }) {
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const [leaving, setLeaving] = useState(false);
  const changed = isChanged(draft);
  const colours = coloursOf(draft.shapes);
  const chosen = selectedShape(draft);
  const { reasons, left } = sorted(problem, draft);
  const save = async () => {
    setBusy(true);
    try {
      await send("PATCH", `v1/sources/${segment(source.id)}`, toSource(draft), tag);
      notify(`Zones and lines of ${source.id} are saved.`);
      await reloadAll();
      onDone();
    } catch (caught) {
      if (caught.status === undefined) throw caught;
      const wrong = caught.errors.map(({ field }) => shapeOfError(draft, field)).find(Boolean);
      if (wrong) dispatch({ type: "select", key: wrong.shape.key });
      setProblem(caught);
      setBusy(false);
    }
  };
  return html`
    <section class="card stack" aria-label="Zones and lines">
      <h2>Zones and lines</h2>
      <div class="buttons">
        <button type="button" class="outline small" aria-pressed=${draft.drawing?.kind === "zone"} onClick=${() => dispatch({ type: "draw", kind: "zone" })}><${Icon} name="zone" /> New zone</button>
        <button type="button" class="outline small" aria-pressed=${draft.drawing?.kind === "line"} onClick=${() => dispatch({ type: "draw", kind: "line" })}><${Icon} name="line" /> New line</button>
        <button type="button" class="secondary outline small" disabled=${!draft.undone.length && !draft.drawing} onClick=${() => dispatch({ type: "undo" })}><${Icon} name="undo" /> Undo</button>
      </div>
      ${draft.drawing && html`<p role="status">${HELP[draft.drawing.kind].map((text) => html`<span key=${text}>${text} </span>`)}</p>`}
      ${!draft.shapes.length && !draft.drawing && html`<p><small>None yet. A zone counts who is in it, a line who crosses it.</small></p>`}
      <ul class="shapes">
        ${draft.shapes.map(
          (shape) => html`<li key=${shape.key}>
            <button type="button" aria-pressed=${shape.key === draft.selected} onClick=${() => dispatch({ type: "select", key: shape.key })}>
              <span class="swatch" style=${{ "--swatch": colours.get(shape.key) }}></span>
              ${shape.name || "(no name)"}
              ${reasons.has(shape.key) && html`<${Icon} name="warning" />`}
              <small>${shape.kind}${shape.kind === "zone" ? `, ${shape.points.length} points` : ""}</small>
            </button>
          </li>`,
        )}
      </ul>
      ${chosen && html`<${Settings} key=${chosen.key} shape=${chosen} classes=${classes} reasons=${reasons.get(chosen.key) ?? {}} dispatch=${dispatch} />`}
      ${left.length > 0 && html`<p class="problem" role="alert"><${Icon} name="warning" /><span>${left.join("; ")}</span></p>`}
      <div class="buttons">
        <button type="button" onClick=${save} aria-busy=${busy} disabled=${busy || !changed || Boolean(draft.drawing)}>Save</button>
        <button type="button" class="secondary outline" onClick=${() => (changed ? setLeaving(true) : onDone())}>${changed ? "Discard" : "Close"}</button>
      </div>
      <p>
        <small>
          On the picture: <kbd>Enter</kbd> next point, arrow keys move it (<kbd>Shift</kbd> faster), <kbd>Del</kbd> deletes, <kbd>Esc</kbd> steps back,
          <kbd>Ctrl</kbd> <kbd>Z</kbd> undoes. While drawing: arrow keys and <kbd>Space</kbd> set points. Drag the small dots to add a corner.
        </small>
      </p>
      ${leaving &&
      html`<${Confirm}
        title="Discard the changes?"
        text="What was changed of zones and lines since the last save is lost."
        submit="Discard"
        onConfirm=${onDone}
        onClose=${() => setLeaving(false)}
      />`}
    </section>
  `;
}
