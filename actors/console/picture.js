// A live picture: the newest frame of a camera on a canvas, with what was seen drawn over it.
import { html, now, useEffect, useRef, useState, useStore } from "./lib.js";
import { live } from "./live.js";
import { Overlay } from "./overlay.js";
import { duration } from "./format.js";

const KEEP_BOXES_S = 1; // over pictures that were not analysed
const STALE_S = 8; // longer than a sleeping camera's pause between two looks

/** True while the element is on the screen, or nearly. */
function useOnScreen(ref) {
  const [seen, setSeen] = useState(false);
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => setSeen(entries.at(-1).isIntersecting), { rootMargin: "80px" });
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return seen;
}

/** Width of the element on the screen, in pixels. */
export function useWidth(ref) {
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return width;
}

/** A picture that was not analysed shows the boxes of the last one that was, for a moment; else they would flicker. */
function withBoxes(header, before) {
  const shownMs = Date.now();
  if (header.analysed !== false) return { ...header, shownMs, seenMs: shownMs };
  const recent = before && shownMs - before.seenMs < KEEP_BOXES_S * 1000;
  return recent ? { ...header, objects: before.objects, occupancy: before.occupancy, shownMs, seenMs: before.seenMs } : { ...header, shownMs, seenMs: 0 };
}

/** Draw each JPEG as it comes; one that comes while another is decoded waits, and only the newest does. */
function useFrames(sourceId, canvas, watched) {
  const [frame, setFrame] = useState(null);
  useEffect(() => {
    if (!watched) return undefined;
    let [waiting, busy, ended] = [null, false, false];
    const draw = async () => {
      busy = true;
      while (waiting && !ended) {
        const [header, jpeg] = waiting;
        waiting = null;
        const bitmap = await createImageBitmap(jpeg).catch(() => null);
        if (bitmap && !ended && canvas.current) {
          const { width, height } = bitmap;
          if (canvas.current.width !== width || canvas.current.height !== height) Object.assign(canvas.current, { width, height });
          canvas.current.getContext("2d").drawImage(bitmap, 0, 0);
          setFrame((before) => withBoxes(header, before));
        }
        bitmap?.close();
      }
      busy = false;
    };
    const unwatch = live.watch(sourceId, (header, jpeg) => {
      waiting = [header, jpeg];
      if (!busy) draw();
    });
    return () => {
      ended = true;
      unwatch();
    };
  }, [sourceId, watched]);
  return frame;
}

/** What is said over a picture that is not there, or not of now. */
function Notice({ source, frame }) {
  const nowMs = useStore(now);
  const { state, reason } = source.status;
  const ageS = frame ? (nowMs - frame.shownMs) / 1000 : 0;
  if (state === "offline" || state === "failed") return html`<p class="over"><strong>${state}</strong>${reason && html`<span>${reason}</span>`}</p>`;
  if (!frame) return html`<p class="over">${state === "finished" ? "The video has ended." : "Waiting for a picture …"}</p>`;
  if (ageS > STALE_S && state !== "finished") return html`<p class="over">No picture for ${duration(ageS)}</p>`;
  return null;
}

/**
 * @param source a source of /v1/sources.
 * @param children drawn over the picture, inside its frame; a function gets {frame, shownWidth}.
 */
export function Picture({ source, label, detailed, shapes, crossings, children }) {
  const box = useRef(null);
  const canvas = useRef(null);
  const seen = useOnScreen(box);
  const shownWidth = useWidth(box);
  const frame = useFrames(source.id, canvas, seen);
  const { width, height } = frame ?? source.status;
  const ratio = width && height ? width / height : 16 / 9;
  return html`
    <div class="picture" ref=${box} style=${{ aspectRatio: String(ratio) }} data-frame=${frame?.frame_index}>
      <canvas ref=${canvas} role="img" aria-label=${label}></canvas>
      ${frame &&
      shownWidth > 0 &&
      html`<${Overlay} frame=${frame} shownWidth=${shownWidth} zones=${source.zones} lines=${source.lines} crossings=${crossings} detailed=${detailed} shapes=${shapes} />`}
      <${Notice} source=${source} frame=${frame} />
      ${typeof children === "function" ? children({ frame, shownWidth, ratio }) : children}
    </div>
  `;
}
