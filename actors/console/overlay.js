// What is drawn over a picture: boxes with their tracks, zones with their counts, lines with the direction that is "in".
import { html } from "./lib.js";

// Okabe and Ito's colours, which people with any kind of colour vision tell apart.
const SHAPE_COLOURS = ["#56b4e9", "#e69f00", "#2bd4a0", "#f0e442", "#cc79a7", "#d55e00", "#8fb8ff", "#ffffff"];

export const shapeColour = (index) => SHAPE_COLOURS[index % SHAPE_COLOURS.length];
export const trackColour = (trackId) => `hsl(${((trackId * 137.508) % 360).toFixed(0)} 90% 66%)`;

/** The arrow across the middle of a line that shows which way counts as "in": to the right of its direction. Pixels. */
export function inArrow([ax, ay], [bx, by], length) {
  const size = Math.hypot(bx - ax, by - ay) || 1;
  const [x, y] = [(ax + bx) / 2, (ay + by) / 2];
  const [nx, ny] = [-(by - ay) / size, (bx - ax) / size];
  return { from: [x - (nx * length) / 3, y - (ny * length) / 3], to: [x + (nx * length * 2) / 3, y + (ny * length * 2) / 3] };
}

/** The corner where a zone's name is written. */
export const topLeft = (points) => points.reduce((best, point) => (point[1] * 3 + point[0] < best[1] * 3 + best[0] ? point : best));

/** Text on a plate that stays inside the picture. `unit`: source pixels per pixel of the screen. */
function Label({ x, y, text, colour, unit, width, dark = false }) {
  const plate = (text.length * 6.9 + 9) * unit;
  const left = Math.max(0, Math.min(x, width - plate));
  const top = Math.max(0, y);
  return html`<g>
    <rect x=${left} y=${top} width=${plate} height=${16 * unit} rx=${3 * unit} fill=${dark ? "#0b1117" : colour} fill-opacity=${dark ? 0.8 : 1} />
    <text x=${left + 4 * unit} y=${top + 12 * unit} font-size=${11 * unit} fill=${dark ? colour : "#0b1117"}>${text}</text>
  </g>`;
}

function Zone({ zone, colour, count, ...place }) {
  const { width, height } = place;
  const points = zone.polygon.map(([x, y]) => [x * width, y * height]);
  const corner = topLeft(points);
  const text = count === undefined ? zone.name : `${zone.name} ${count}`;
  return html`<g class="zone">
    <polygon points=${points.join(" ")} fill=${colour} stroke=${colour} />
    <${Label} ...${place} x=${corner[0] + 3 * place.unit} y=${corner[1] + 3 * place.unit} dark text=${text} colour=${colour} />
  </g>`;
}

function Line({ line, colour, counts, ...place }) {
  const { width, height, unit } = place;
  const [a, b] = line.points.map(([x, y]) => [x * width, y * height]);
  const { from, to } = inArrow(a, b, 26 * unit);
  const [dx, dy] = [(to[0] - from[0]) / 26, (to[1] - from[1]) / 26];
  const wing = (side) => [to[0] - dx * 8 - side * dy * 6, to[1] - dy * 8 + side * dx * 6];
  const text = counts ? `${line.name} in ${counts.in} out ${counts.out}` : line.name;
  return html`<g class="line">
    <path class="halo" d="M${a}L${b}M${from}L${to}" />
    <path stroke=${colour} d="M${a}L${b}M${from}L${to}M${wing(1)}L${to}L${wing(-1)}" />
    <${Label} ...${place} x=${Math.min(a[0], b[0]) + 4 * unit} y=${(a[0] < b[0] ? a : b)[1] + 5 * unit} dark text=${text} colour=${colour} />
  </g>`;
}

function Box({ object, unit, width, detailed }) {
  const [left, top, right, bottom] = object.xyxy;
  const colour = trackColour(object.track_id);
  const text = detailed ? `#${object.track_id} ${object.class} ${Math.round(object.confidence * 100)} %` : `#${object.track_id}`;
  return html`<g class=${object.zones.length ? "box inside" : "box"}>
    <rect class="halo" x=${left} y=${top} width=${right - left} height=${bottom - top} rx=${2 * unit} />
    <rect x=${left} y=${top} width=${right - left} height=${bottom - top} rx=${2 * unit} stroke=${colour} />
    <${Label} x=${left} y=${top - 16 * unit} text=${text} colour=${colour} unit=${unit} width=${width} />
  </g>`;
}

/**
 * The drawing over one picture.
 *
 * @param frame the header of the picture: width, height, objects, occupancy.
 * @param shownWidth width on the screen in pixels.
 * @param crossings counts of each line, {name: {in, out}}.
 */
export function Overlay({ frame, shownWidth, zones, lines, crossings, detailed = false, shapes = true }) {
  const { width, height } = frame;
  const small = Math.min(1, Math.max(0.75, shownWidth / 560)); // smaller words on smaller pictures
  const words = detailed && shownWidth > 500;
  const place = { width, height, unit: (width / Math.max(1, shownWidth)) * small };
  return html`<svg class="overlay" viewBox="0 0 ${width} ${height}" aria-hidden="true">
    ${shapes && zones.map((zone, i) => html`<${Zone} key=${zone.name} ...${place} zone=${zone} colour=${shapeColour(i)} count=${frame.occupancy?.[zone.name]} />`)}
    ${shapes && lines.map((line, i) => html`<${Line} key=${line.name} ...${place} line=${line} colour=${shapeColour(zones.length + i)} counts=${crossings?.[line.name]} />`)}
    ${frame.objects.map((object) => html`<${Box} key=${object.track_id} ...${place} object=${object} detailed=${words} />`)}
  </svg>`;
}
