// The editor of zones and lines: Konva over the live picture, for mouse, touch and keyboard.
import { html, useEffect, useRef, useState } from "./lib.js";
import { selectedShape } from "./draft.js";
import { inArrow, shapeColour, topLeft } from "./overlay.js";
import { Loading } from "./ui.js";

const STEP = 0.002; // of the picture, by an arrow key; with Shift ten times as far
const CLOSE_PX = 12; // from the first point ends a zone
const LONG_EDGE_PX = 36; // shorter edges offer no new point
const ARROW_PX = 30;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Colour of each shape, as the live picture has it: zones first, then lines. */
export function coloursOf(shapes) {
  const zones = shapes.filter(({ kind }) => kind === "zone");
  const lines = shapes.filter(({ kind }) => kind === "line");
  return new Map([...zones, ...lines].map(({ key }, i) => [key, shapeColour(i)]));
}

const flat = (points) => points.flat();
const distance = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);
const middle = ([ax, ay], [bx, by]) => [(ax + bx) / 2, (ay + by) / 2];

/** Draws one draft onto a stage; made anew whenever the draft changes. While something is dragged, only Konva knows. */
class Drawing {
  constructor(Konva, stage, draft, dispatch) {
    Object.assign(this, { Konva, stage, draft, dispatch, width: stage.width(), height: stage.height() });
    this.layer = new Konva.Layer();
    const colours = coloursOf(draft.shapes);
    const order = draft.shapes.toSorted((a, b) => (a.key === draft.selected) - (b.key === draft.selected));
    for (const shape of order) this.#shape(shape, colours.get(shape.key));
    if (draft.drawing) this.#unfinished(draft.drawing);
    stage.destroyChildren();
    stage.add(this.layer);
  }

  pixels = ([x, y]) => [x * this.width, y * this.height];
  share = ([x, y]) => [x / this.width, y / this.height];

  #shape(shape, colour) {
    const { Konva, draft } = this;
    const selected = shape.key === draft.selected;
    const closed = shape.kind === "zone";
    const points = shape.points.map(this.pixels);
    const group = new Konva.Group({ draggable: selected && !draft.drawing });
    const outline = new Konva.Line({
      points: flat(points),
      closed,
      stroke: colour,
      strokeWidth: selected ? 3 : 2,
      hitStrokeWidth: 14,
      fill: closed ? `${colour}${selected ? "47" : "26"}` : undefined,
      shadowColor: "#000",
      shadowBlur: 3,
      shadowOpacity: 0.7,
      shadowForStrokeEnabled: !closed,
    });
    group.add(outline);
    const arrow = !closed && new Konva.Arrow({ stroke: colour, fill: colour, strokeWidth: 2.4, pointerLength: 9, pointerWidth: 9 });
    const show = (moved) => {
      outline.points(flat(moved));
      if (!arrow) return;
      const { from, to } = inArrow(moved[0], moved[1], ARROW_PX);
      arrow.points([...from, ...to]);
    };
    if (arrow) group.add(arrow);
    show(points);
    group.add(this.#name(shape, points, colour));
    group.on("click tap", () => draft.drawing || selected || this.dispatch({ type: "select", key: shape.key }));
    group.on("dragend", ({ target }) => {
      if (target === group) this.dispatch({ type: "shift", key: shape.key, by: this.share([group.x(), group.y()]) });
    });
    group.on("mouseenter", () => this.#cursor(draft.drawing ? "crosshair" : selected ? "move" : "pointer"));
    group.on("mouseleave", () => this.#cursor(draft.drawing ? "crosshair" : ""));
    this.layer.add(group);
    if (selected && !draft.drawing) this.#handles(group, shape, points, colour, show);
  }

  #name(shape, points, colour) {
    const [x, y] = shape.kind === "zone" ? topLeft(points) : middle(points[0], points[1]);
    const label = new this.Konva.Label({ x: Math.min(x + 6, this.width - 60), y: Math.max(2, y + 6), listening: false });
    label.add(new this.Konva.Tag({ fill: "#0b1117", opacity: 0.8, cornerRadius: 4 }));
    label.add(new this.Konva.Text({ text: shape.name, fill: colour, fontSize: 13, fontStyle: "600", fontFamily: "system-ui, sans-serif", padding: 4 }));
    return label;
  }

  #handles(group, shape, points, colour, show) {
    const { Konva } = this;
    const last = shape.kind === "zone" ? points.length : points.length - 1;
    for (let i = 0; shape.kind === "zone" && i < last; i += 1) {
      const next = points[(i + 1) % points.length];
      if (distance(points[i], next) < LONG_EDGE_PX) continue;
      const [x, y] = middle(points[i], next);
      const handle = new Konva.Circle({ x, y, radius: 4.5, fill: "#0b1117", stroke: colour, strokeWidth: 1.5, opacity: 0.85, hitStrokeWidth: 12 });
      this.#draggable(handle, (at) => show(points.toSpliced(i + 1, 0, at)), (at) => this.dispatch({ type: "insert", key: shape.key, point: i + 1, at }));
      group.add(handle);
    }
    points.forEach(([x, y], i) => {
      const chosen = i === this.draft.point;
      const handle = new Konva.Circle({
        x,
        y,
        name: "point",
        radius: chosen ? 8 : 6,
        fill: chosen ? colour : "#fff",
        stroke: chosen ? "#fff" : colour,
        strokeWidth: 2.5,
        hitStrokeWidth: 14,
      });
      handle.on("click tap", (event) => {
        event.cancelBubble = true;
        this.dispatch({ type: "select", key: shape.key, point: i });
      });
      this.#draggable(handle, (at) => show(points.with(i, at)), (to) => this.dispatch({ type: "move", key: shape.key, point: i, to }));
      group.add(handle);
    });
  }

  /** Let a handle be dragged inside the picture. */
  #draggable(handle, onMove, onEnd) {
    const inside = () => [Math.min(this.width, Math.max(0, handle.x())), Math.min(this.height, Math.max(0, handle.y()))];
    handle.draggable(true);
    handle.on("dragmove", () => {
      const [x, y] = inside();
      handle.position({ x, y });
      onMove([x, y]);
    });
    handle.on("dragend", (event) => {
      event.cancelBubble = true;
      onEnd(this.share(inside()));
    });
    handle.on("mouseenter", () => this.#cursor("grab"));
  }

  #unfinished({ kind, points: shares }) {
    const { Konva, stage } = this;
    const colour = shapeColour(this.draft.shapes.length);
    const points = shares.map(this.pixels);
    const band = new Konva.Line({ points: flat(points), stroke: colour, strokeWidth: 2.5, dash: [7, 5], listening: false });
    this.layer.add(band);
    points.forEach(([x, y], i) => this.layer.add(new Konva.Circle({ x, y, radius: i ? 5 : 8, fill: "#fff", stroke: colour, strokeWidth: 2.5, listening: false })));
    this.#cursor("crosshair");
    stage.on("mousemove.draw", () => {
      const { x, y } = stage.getPointerPosition();
      band.points([...flat(points), x, y]);
    });
    stage.on("click.draw tap.draw", () => {
      const { x, y } = stage.getPointerPosition();
      const near = (point) => point && distance(point, [x, y]) < CLOSE_PX;
      if (kind === "zone" && points.length >= 3 && (near(points[0]) || near(points.at(-1)))) this.dispatch({ type: "finish" });
      else if (!near(points.at(-1))) this.dispatch({ type: "place", at: this.share([x, y]) });
    });
  }

  #cursor(name) {
    this.stage.container().style.cursor = name;
  }

  end() {
    this.stage.off("mousemove.draw click.draw tap.draw click.leave tap.leave");
    this.#cursor("");
  }
}

/** Konva is fetched when the editor opens for the first time. */
function useKonva() {
  const [Konva, setKonva] = useState(() => globalThis.Konva ?? null);
  useEffect(() => {
    if (!Konva) import("./vendor/konva.min.js").then(() => setKonva(() => globalThis.Konva));
  }, []);
  return Konva;
}

function onKey(event, draft, dispatch, cursor, setCursor) {
  const act = (action) => {
    event.preventDefault();
    event.stopPropagation();
    if (action) dispatch(action);
  };
  const arrow = ARROWS[event.key];
  const step = STEP * (event.shiftKey ? 10 : 1) * (draft.drawing ? 5 : 1);
  if (arrow && draft.drawing) {
    act();
    setCursor(([x, y]) => [x + arrow[0] * step, y + arrow[1] * step].map((value) => Math.min(1, Math.max(0, value))));
  } else if (arrow && selectedShape(draft)) act({ type: "nudge", by: [arrow[0] * step, arrow[1] * step] });
  else if (event.key === " " && draft.drawing) act({ type: "place", at: cursor });
  else if (event.key === "Enter") act(draft.drawing ? { type: "finish" } : { type: "walk", step: event.shiftKey ? -1 : 1 });
  else if (event.key === "Delete" || event.key === "Backspace") act({ type: draft.drawing ? "unplace" : "remove" });
  else if (event.key === "Escape") act({ type: "leave" });
  else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) act({ type: "undo" });
}

/** Lies over the picture; `dispatch` takes the actions of draft.js. */
export function Editor({ draft, dispatch, shownWidth, ratio }) {
  const Konva = useKonva();
  const box = useRef(null);
  const stage = useRef(null);
  const [cursor, setCursor] = useState([0.5, 0.5]);
  const [keys, setKeys] = useState(false);
  const [width, height] = [Math.round(shownWidth), Math.round(shownWidth / ratio)];
  useEffect(() => {
    if (!Konva || !width) return undefined;
    stage.current = new Konva.Stage({ container: box.current, width, height });
    return () => {
      stage.current.destroy();
      stage.current = null;
    };
  }, [Konva, width > 0]);
  useEffect(() => {
    if (!stage.current) return undefined;
    stage.current.size({ width, height });
    const drawing = new Drawing(Konva, stage.current, draft, dispatch);
    stage.current.on("click.leave tap.leave", ({ target }) => target === stage.current && !draft.drawing && draft.selected && dispatch({ type: "select", key: null }));
    return () => drawing.end();
  }, [Konva, draft, width, height]);
  const chosen = selectedShape(draft);
  const told = draft.drawing
    ? `drawing a ${draft.drawing.kind}, ${draft.drawing.points.length} points so far`
    : chosen
      ? `${chosen.kind} ${chosen.name}${draft.point === null ? "" : `, point ${draft.point + 1} of ${chosen.points.length}`}`
      : "nothing selected";
  return html`
    <div
      class="stage"
      role="application"
      tabindex="0"
      aria-label="Zones and lines on the picture: ${told}"
      onKeyDown=${(event) => (setKeys(true), onKey(event, draft, dispatch, cursor, setCursor))}
      onPointerDown=${(event) => (setKeys(false), event.currentTarget.focus())}
    >
      <div ref=${box}></div>
      ${!Konva && html`<${Loading} what="the editor" />`}
      ${draft.drawing && keys && html`<span class="crosshair" style=${{ left: `${cursor[0] * 100}%`, top: `${cursor[1] * 100}%` }}></span>`}
    </div>
  `;
}
