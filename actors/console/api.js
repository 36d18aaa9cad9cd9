// The API: requests with the token, problems, who is signed in, and answers that are asked for again and again.
import { Store, useStore } from "./lib.js";

const TOKEN = "framewatch.token";
const LONGEST_PAUSE_S = 15;

/** What went wrong with a request: a problem+json of the service, or that there was no answer (status 0). */
export class Problem extends Error {
  constructor({ status, title, detail, errors = [], body = {} }) {
    super(detail || title);
    Object.assign(this, { status, title, errors, body });
  }

  static async of(answer) {
    const body = await answer.json().catch(() => ({}));
    return new Problem({ title: answer.statusText || `HTTP ${answer.status}`, ...body, status: answer.status, body });
  }

  /** The reason given for a field, by the end of its path: `sources.0.uri` is `uri`. */
  at(field) {
    return this.errors.find((error) => error.field === field || error.field?.endsWith(`.${field}`))?.reason;
  }
}

/** `phase`: "asking", "in" (`access` tells the role) or "out" (the sign-in page is shown). */
export const session = new Store({ phase: "asking", token: sessionStorage.getItem(TOKEN) ?? "", access: null, reason: "" });

const change = (part) => session.set({ ...session.value, ...part });
export const mayWrite = () => session.value.access?.role !== "viewer";

/** Ask who we are, with this token. Throws the problem, unless it is that the token is not known. */
export async function signIn(token) {
  change({ token, reason: "" });
  try {
    const service = await get("v1/service");
    if (token) sessionStorage.setItem(TOKEN, token);
    change({ phase: "in", access: service.access });
  } catch (problem) {
    if (problem.status !== 401) throw problem;
  }
}

export function signOut(reason = "") {
  sessionStorage.removeItem(TOKEN);
  change({ phase: "out", token: "", access: null, reason });
}

/** One request; the answer when it is a success, else a Problem is thrown. Paths are relative to the page; `match` is an ETag. */
export async function request(method, path, body, { signal, match } = {}) {
  const { token, phase } = session.value;
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (match) headers["If-Match"] = match;
  if (body !== undefined) headers["Content-Type"] = method === "PATCH" ? "application/merge-patch+json" : "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ status: 0, title: "No answer", detail: "The service does not answer. It is tried again; until then what is shown is old." });
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    const expired = phase === "in" ? "The token is no longer accepted. Sign in again." : "This token is not known here.";
    signOut(token ? expired : "");
  }
  throw await Problem.of(answer);
}

export const get = async (path, signal) => (await request("GET", path, undefined, { signal })).json();
export const getBlob = async (path, signal) => (await request("GET", path, undefined, { signal })).blob();
export const send = async (method, path, body, match) => {
  const answer = await request(method, path, body, { match });
  return answer.status === 204 ? null : answer.json().catch(() => null);
};
export const segment = encodeURIComponent;

/**
 * An answer that is kept up to date while some component follows it and the page is seen. After a failure the pauses grow, and
 * the last answer stays. `value` is {data, problem}.
 */
class Feed extends Store {
  #timer = 0;
  #asking = null;
  #failures = 0;

  constructor(path, periodS) {
    super({ data: null, problem: null });
    Object.assign(this, { path, periodS });
  }

  subscribe(listener) {
    const unsubscribe = super.subscribe(listener);
    if (!this.#asking && !this.#timer) this.reload();
    return () => {
      unsubscribe();
      if (!this.followed) this.#stop();
    };
  }

  /** Ask now. */
  async reload() {
    this.#stop();
    if (!this.followed || document.hidden || session.value.phase !== "in") return;
    const asking = (this.#asking = new AbortController());
    try {
      const data = await get(this.path, asking.signal);
      if (this.#asking !== asking) return;
      this.#failures = 0;
      this.set({ data, problem: null });
    } catch (problem) {
      if (this.#asking !== asking) return;
      this.#failures += 1;
      this.set({ data: this.value.data, problem });
    }
    this.#asking = null;
    const pauseS = this.#failures ? Math.min(LONGEST_PAUSE_S, this.periodS * 2 ** (this.#failures - 1)) : this.periodS;
    if (this.followed) this.#timer = setTimeout(() => this.reload(), pauseS * 1000);
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#asking?.abort();
    this.#asking = null;
  }
}

const MOST_FEEDS = 32; // of which those that nobody follows are forgotten
const feeds = new Map();

/** The feed of a path, the same for all who ask. */
export function feed(path, periodS) {
  if (!feeds.has(path)) {
    for (const [old, one] of feeds) {
      if (feeds.size < MOST_FEEDS) break;
      if (!one.followed) feeds.delete(old);
    }
    feeds.set(path, new Feed(path, periodS));
  }
  return feeds.get(path);
}

export const useFeed = (path, periodS) => useStore(feed(path, periodS));

/** After a write: ask again for everything that is on the page. */
export const reloadAll = () => Promise.all([...feeds.values()].filter((one) => one.followed).map((one) => one.reload()));

document.addEventListener("visibilitychange", () => document.hidden || reloadAll());
session.subscribe(() => {
  if (session.value.phase === "in") reloadAll();
  if (session.value.phase === "out") feeds.clear(); // nothing stays for whoever signs in next
});

export const sourcesFeed = () => feed("v1/sources", 2);
export const activeAlertsFeed = () => feed("v1/alerts?state=active&limit=100", 2);
export const serviceFeed = () => feed("v1/service", 20);
export const rulesFeed = () => feed("v1/rules", 20);
