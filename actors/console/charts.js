// Charts over time: uPlot, in the page's colours, with one cursor for all charts of a page.
import { html, useEffect, useRef, useStore } from "./lib.js";
import { theme } from "./theme.js";
import { useWidth } from "./picture.js";
import { fullTime, minutes, seconds } from "./format.js";

const HEIGHT_PX = 190;
const COLOURS = 6;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const { uPlot } = globalThis;

/** Without a cursor the legend shows the newest values. */
function showNewest(plot) {
  if (plot.cursor.idx === null || plot.cursor.idx === undefined) plot.setLegend({ idx: plot.data[0].length - 1 }, false);
}

function options(width, series, format, stepped) {
  const [muted, border] = [colour("--pico-muted-color"), colour("--border")];
  const colours = series.map(({ limit }, i) => (limit ? muted : colour(`--series-${(i % COLOURS) + 1}`)));
  const axis = { stroke: muted, grid: { stroke: border, width: 1 }, ticks: { stroke: border, width: 1, size: 4 }, font: "12px system-ui, sans-serif" };
  return {
    width,
    height: HEIGHT_PX,
    legend: { markers: { width: 0, fill: (_, i) => colours[i - 1] } },
    hooks: { setCursor: [showNewest], setData: [showNewest], ready: [showNewest] },
    cursor: { sync: { key: "framewatch" }, points: { size: 6 }, drag: { x: false, y: false } },
    scales: { y: { range: (_, __, most) => [0, Math.max(1, (most ?? 0) * 1.12)] } },
    axes: [
      { ...axis, space: 60, size: 30, values: (_, ticks) => ticks.map(ticks[1] - ticks[0] < 60 ? seconds : minutes) },
      { ...axis, size: 46, values: (_, ticks) => ticks.map((tick) => +tick.toFixed(2)) },
    ],
    series: [
      { label: "at", value: (_, t) => (t === null || t === undefined ? "" : seconds(t)) },
      ...series.map(({ label, limit }, i) => ({
        label,
        stroke: colours[i],
        width: limit ? 1.2 : 1.8,
        dash: limit ? [5, 4] : undefined,
        points: { show: false },
        paths: stepped && !limit ? uPlot.paths.stepped({ align: -1 }) : undefined,
        value: (_, value) => (value === null || value === undefined ? "–" : format(value)),
      })),
    ],
  };
}

const last = (values) => values.findLast((value) => value !== null && value !== undefined);

/**
 * @param t POSIX seconds.
 * @param series [{label, values, limit}], values as many as times; `limit` draws a dashed line.
 * @param format writes a value with its unit.
 */
export function Chart({ title, note, t, series, format, stepped = false }) {
  const box = useRef(null);
  const plot = useRef(null);
  const width = useWidth(box);
  const colours = useStore(theme);
  const labels = series.map(({ label }) => label).join("\n");
  const data = [t, ...series.map(({ values }) => values)];
  const empty = !series.some(({ values, limit }) => !limit && values.some((value) => value !== null && value !== undefined));
  useEffect(() => {
    if (!width || empty) return undefined;
    plot.current = new uPlot(options(width, series, format, stepped), data, box.current);
    return () => {
      plot.current.destroy();
      plot.current = null;
    };
  }, [labels, colours, empty, width > 0]);
  useEffect(() => plot.current?.setData(data), [t]);
  useEffect(() => plot.current && width && plot.current.setSize({ width, height: HEIGHT_PX }), [width]);
  const newest = series.map(({ label, values }) => `${label} ${last(values) === undefined ? "none" : format(last(values))}`).join(", ");
  const until = t.length ? ` at ${fullTime(t.at(-1) * 1000)}` : "";
  return html`
    <section class="card chart">
      <h2>${title}${note && html`<small>${note}</small>`}</h2>
      <div class="plot" ref=${box} role="img" aria-label="${title}: ${empty ? "nothing in this time" : newest + until}">
        ${empty && html`<p class="placeholder">Nothing in this time.</p>`}
      </div>
    </section>
  `;
}
