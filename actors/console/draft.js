// Zones and lines that are being edited: plain values and one function that changes them. Nothing here draws or asks.
const MOST_UNDONE = 50;
const KINDS = { zone: { least: 3, most: 100 }, line: { least: 2, most: 2 } };

const clamp = (value) => Math.min(1, Math.max(0, value));
const rounded = ([x, y]) => [x, y].map((value) => Math.round(clamp(value) * 1e4) / 1e4);

let lastKey = 0;
const shape = (kind, name, points, rest = {}) => ({ key: ++lastKey, kind, name, points, anchor: rest.anchor ?? "bottom_center", classes: rest.classes ?? null });

/** What is edited of a source: its shapes, what is selected, what is being drawn, and how to go back. */
export function begin({ zones, lines }) {
  const shapes = [...zones.map((one) => shape("zone", one.name, one.polygon, one)), ...lines.map((one) => shape("line", one.name, one.points, one))];
  return { shapes, saved: shapes, selected: null, point: null, drawing: null, undone: [] };
}

export const isChanged = (draft) => draft.shapes !== draft.saved;
export const selectedShape = (draft) => draft.shapes.find(({ key }) => key === draft.selected);

/** As the API wants it: {zones, lines}. */
export function toSource({ shapes }) {
  const of = (kind) => shapes.filter((one) => one.kind === kind);
  const shared = ({ name, anchor, classes }) => ({ name: name.trim(), anchor, classes });
  return {
    zones: of("zone").map((one) => ({ ...shared(one), polygon: one.points })),
    lines: of("line").map((one) => ({ ...shared(one), points: one.points })),
  };
}

/** The shape and the key that an error of the API is about: "zones.1.name" is [second zone, "name"]. */
export function shapeOfError({ shapes }, field = "") {
  const match = /(zones|lines)\.(\d+)(?:\.(.*))?$/.exec(field);
  if (!match) return null;
  const found = shapes.filter((one) => `${one.kind}s` === match[1])[Number(match[2])];
  return found ? { shape: found, key: match[3] ?? "" } : null;
}

function freeName(shapes, kind) {
  const names = new Set(shapes.map(({ name }) => name));
  let number = 1;
  while (names.has(`${kind}-${number}`)) number += 1;
  return `${kind}-${number}`;
}

/** New shapes, with the old ones and what was selected kept for undo. */
function change(draft, shapes, rest = {}) {
  const before = { shapes: draft.shapes, selected: draft.selected, point: draft.point };
  return { ...draft, shapes, undone: [...draft.undone, before].slice(-MOST_UNDONE), ...rest };
}

const replace = (draft, key, make, rest) => change(draft, draft.shapes.map((one) => (one.key === key ? { ...one, ...make(one) } : one)), rest);

function finish(draft) {
  const { kind, points } = draft.drawing;
  if (points.length < KINDS[kind].least) return draft;
  const added = shape(kind, freeName(draft.shapes, kind), points);
  return change(draft, [...draft.shapes, added], { drawing: null, selected: added.key, point: null });
}

function place(draft, point) {
  const { kind, points } = draft.drawing;
  const next = { ...draft, drawing: { ...draft.drawing, points: [...points, rounded(point)] } };
  return next.drawing.points.length === KINDS[kind].most ? finish(next) : next;
}

/** Take out the selected point, or the whole shape where too few would be left. */
function remove(draft) {
  const { selected, point } = draft;
  const one = selectedShape(draft);
  if (!one) return draft;
  if (point === null || one.points.length <= KINDS[one.kind].least) {
    return change(draft, draft.shapes.filter(({ key }) => key !== selected), { selected: null, point: null });
  }
  const points = one.points.filter((_, i) => i !== point);
  return replace(draft, selected, () => ({ points }), { point: Math.min(point, points.length - 1) });
}

/** The next point of the selected shape (or the one before, `step` -1), after its last that of the next shape. */
function walk(draft, step) {
  const stops = draft.shapes.flatMap(({ key, points }) => points.map((_, point) => [key, point]));
  if (!stops.length) return draft;
  const at = stops.findIndex(([key, point]) => key === draft.selected && point === draft.point);
  const start = at >= 0 ? at + step : stops.findIndex(([key]) => key === draft.selected);
  const [selected, point] = stops[(Math.max(start, at >= 0 ? start : 0) + stops.length) % stops.length];
  return { ...draft, selected, point };
}

/** The draft after an action: {type, ...}. */
export function reduce(draft, action) {
  const { selected, point } = draft;
  switch (action.type) {
    case "draw":
      return { ...draft, drawing: { kind: action.kind, points: [] }, selected: null, point: null };
    case "place":
      return draft.drawing ? place(draft, action.at) : draft;
    case "unplace":
      return draft.drawing ? { ...draft, drawing: { ...draft.drawing, points: draft.drawing.points.slice(0, -1) } } : draft;
    case "finish":
      return draft.drawing ? finish(draft) : draft;
    case "leave": // one step out: of the drawing, of the point, of the shape
      if (draft.drawing) return { ...draft, drawing: null };
      return point === null ? { ...draft, selected: null } : { ...draft, point: null };
    case "select":
      return { ...draft, selected: action.key, point: action.point ?? null, drawing: null };
    case "walk":
      return walk(draft, action.step);
    case "move": // one point to a place
      return replace(draft, action.key, ({ points }) => ({ points: points.map((old, i) => (i === action.point ? rounded(action.to) : old)) }), {
        selected: action.key,
        point: action.point,
      });
    case "nudge": // the selected point, or the whole shape, by a step
      return selectedShape(draft) ? replace(draft, selected, ({ points }) => ({ points: shifted(points, action.by, point) })) : draft;
    case "shift": // a whole shape
      return replace(draft, action.key, ({ points }) => ({ points: shifted(points, action.by, null) }), { selected: action.key, point: null });
    case "insert":
      return replace(draft, action.key, ({ points }) => ({ points: points.toSpliced(action.point, 0, rounded(action.at)) }), {
        selected: action.key,
        point: action.point,
      });
    case "remove":
      return remove(draft);
    case "edit": // name, anchor or classes
      return replace(draft, action.key, () => action.values);
    case "swap":
      return replace(draft, action.key, ({ points }) => ({ points: points.toReversed() }));
    case "undo":
      return { ...draft, ...draft.undone.at(-1), undone: draft.undone.slice(0, -1), drawing: null };
    default:
      throw new Error(`no action ${action.type}`);
  }
}

/** Points moved by a step; all of them keep their distances, so none leaves the picture. */
function shifted(points, [dx, dy], only) {
  if (only !== null) return points.map(([x, y], i) => (i === only ? rounded([x + dx, y + dy]) : [x, y]));
  const room = (axis, step) => {
    const values = points.map((one) => one[axis]);
    return Math.min(1 - Math.max(...values), Math.max(-Math.min(...values), step));
  };
  return points.map(([x, y]) => rounded([x + room(0, dx), y + room(1, dy)]));
}
