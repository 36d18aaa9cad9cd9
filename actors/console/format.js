// Figures and times as people read them, in the browser's language and time zone.
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

const isToday = (date) => date.toDateString() === new Date().toDateString();

/** "14:03:12", with the day where it is not today. */
export function time(at) {
  if (at === null || at === undefined) return "–";
  const date = new Date(at);
  return isToday(date) ? clock.format(date) : `${day.format(date)}, ${clock.format(date)}`;
}

/** "14:03" of POSIX seconds, for axes. */
export const minutes = (posixS) => minute.format(new Date(posixS * 1000));
export const seconds = (posixS) => clock.format(new Date(posixS * 1000));
export const fullTime = (at) => full.format(new Date(at));

/** "12 s", "5 min", "3 h", "2 days". */
export function duration(s) {
  if (!Number.isFinite(s)) return "–";
  if (s < 90) return `${Math.max(0, Math.round(s))} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129_600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} days`;
}

export const ago = (at, nowMs) => `${duration((nowMs - new Date(at).getTime()) / 1000)} ago`;

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
export const number = (value, digits = 0) => (isNumber(value) ? value.toFixed(digits) : "–");
export const ms = (value) => (isNumber(value) ? `${value < 10 ? value.toFixed(1) : Math.round(value)} ms` : "–");
export const fps = (value) => (isNumber(value) ? `${value.toFixed(1)} fps` : "– fps");

/** A share as per cent; more digits where it is nearly all, and never 100 % where something is missing. */
export function percent(share) {
  if (!isNumber(share)) return "–";
  if (share === 1) return "100 %";
  const digits = share >= 0.99 ? 2 : 1;
  return `${Math.min(share * 100, 99.99).toFixed(digits)} %`;
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** What an alert is about: "7 in floor, limit 3"; of one that is over, what it was raised for. */
export function alertText({ type, state, value, threshold, zone, line }) {
  const figure = Math.round(value * 10) / 10;
  const over = state === "cleared";
  switch (type) {
    case "crowd":
      return over ? `more than ${threshold} in ${zone ?? "the zones"}` : `${figure} in ${zone ?? "the zones"}, limit ${threshold}`;
    case "intrusion":
      return over ? `somebody in ${zone}` : `${plural(figure, "object")} in ${zone}`;
    case "line":
      return `${plural(figure, "crossing")} of ${line}`;
    case "loitering":
      return over ? `longer than ${duration(threshold)} in ${zone}` : `${duration(value)} in ${zone}, limit ${duration(threshold)}`;
    case "source_tampered":
      return value < 1 ? "tampered with" : `tampered with for ${duration(value)}`;
    default:
      return value < 1 ? "offline" : `offline for ${duration(value)}`;
  }
}
