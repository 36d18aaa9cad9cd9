// What every part of the console is written with: Preact, its hooks, htm's templates, and values that components follow.
import { Fragment, h, render } from "./vendor/preact.mjs";
import { useEffect, useErrorBoundary, useId, useLayoutEffect, useMemo, useReducer, useRef, useState } from "./vendor/preact-hooks.mjs";
import htm from "./vendor/htm.mjs";

export { Fragment, render, useEffect, useErrorBoundary, useId, useLayoutEffect, useMemo, useRef, useState };
export const html = htm.bind(h);

/** A value that components follow with `useStore`. */
export class Store {
  #listeners = new Set();

  constructor(value) {
    this.value = value;
  }

  set(value) {
    if (Object.is(value, this.value)) return;
    this.value = value;
    for (const listener of [...this.#listeners]) listener();
  }

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get followed() {
    return this.#listeners.size > 0;
  }
}

/** The store's value; the component is drawn again when it changes. */
export function useStore(store) {
  const [, redraw] = useReducer((count) => count + 1, 0);
  useEffect(() => {
    const seen = store.value;
    const unsubscribe = store.subscribe(redraw);
    if (store.value !== seen) redraw();
    return unsubscribe;
  }, [store]);
  return store.value;
}

/** A second at a time, for "12 s ago". */
export const now = new Store(Date.now());
setInterval(() => document.hidden || now.set(Date.now()), 1000);

/** Short messages at the foot of the page; the last four. */
export const notices = new Store([]);
let noticeId = 0;

export function notify(text, kind = "good") {
  const notice = { id: ++noticeId, text, kind };
  notices.set([...notices.value.slice(-3), notice]);
  setTimeout(() => dismiss(notice.id), kind === "bad" ? 12_000 : 5_000);
}

export function dismiss(id) {
  notices.set(notices.value.filter((notice) => notice.id !== id));
}

/** Where the address points: `#/camera/hall` is ["camera", "hall"]. */
function parse() {
  return location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
}
export const route = new Store(parse());
let question = ""; // before the page is left

addEventListener("hashchange", ({ oldURL }) => {
  if (question && !confirm(question)) history.replaceState(null, "", oldURL);
  else route.set(parse());
});
addEventListener("beforeunload", (event) => question && event.preventDefault());

/** Ask before this page is left; gives a function that ends that. */
export function askBeforeLeaving(text) {
  question = text;
  return () => (question = "");
}

export const go = (...parts) => (location.hash = `#/${parts.map(encodeURIComponent).join("/")}`);
export const href = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;
