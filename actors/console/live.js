// Live pictures: one WebSocket for the page, which asks for the cameras that are on the screen and for no others.
import { Store, notify } from "./lib.js";
import { get, session } from "./api.js";

const MOST_WATCHED = 32; // of the service; more take turns
const TURN_S = 2;
const REFUSED = 4401;
const TOO_MANY = 1013;
const LONGEST_PAUSE_S = 15;
const LINGER_S = 3;

class Live {
  /** "closed" (nothing is watched), "connecting", "open" or "waiting" (for the next try). */
  state = new Store("closed");
  #watchers = new Map(); // callbacks by source
  #view = { width: 640, fps: 4 };
  #socket = null;
  #failures = 0;
  #retry = 0;
  #turn = 0;
  #asked = "";
  #settling = 0;
  #decoder = new TextDecoder();

  constructor() {
    document.addEventListener("visibilitychange", () => this.#settle());
    session.subscribe(() => session.value.phase !== "in" && this.#close());
    setInterval(() => this.#ask(), TURN_S * 1000);
  }

  /** Call `onPicture(header, jpeg)` with every new picture of a source; gives a function that ends that. */
  watch(sourceId, onPicture) {
    const callbacks = this.#watchers.get(sourceId) ?? new Set();
    this.#watchers.set(sourceId, callbacks.add(onPicture));
    this.#settle();
    return () => {
      callbacks.delete(onPicture);
      if (!callbacks.size) this.#watchers.delete(sourceId);
      this.#settle();
    };
  }

  /** How large and how often pictures come, for all that are watched. */
  view(width, fps) {
    this.#view = { width, fps };
    this.#settle();
  }

  /** Let a burst of changes become one message. */
  #settle() {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => {
      if (this.#wanted().length && !this.#socket && !this.#retry) this.#open();
      this.#ask();
    }, 50);
  }

  #wanted() {
    return document.hidden ? [] : [...this.#watchers.keys()].sort();
  }

  #open() {
    if (session.value.phase !== "in") return;
    this.state.set("connecting");
    const url = new URL("v1/live", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.hash = "";
    const socket = (this.#socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    let received = 0;
    socket.onopen = () => {
      const { token } = session.value;
      socket.send(JSON.stringify(token ? { token } : {}));
      this.#asked = "";
      this.state.set("open");
      this.#ask();
    };
    socket.onmessage = ({ data }) => {
      this.#receive(data);
      socket.send(JSON.stringify({ received: ++received })); // the service sends no more than a few pictures ahead of this
    };
    socket.onclose = ({ code, reason }) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      if (code === TOO_MANY && !this.#failures) notify(reason || "Too many live views are open.", "bad");
      if (code === REFUSED) get("v1/service").catch(() => {}); // leads to the sign-in page if it is the token
      this.#pause();
    };
  }

  /** Try again later, each time later, and not all pages of all people at once. */
  #pause() {
    if (!this.#wanted().length || session.value.phase !== "in") return this.state.set("closed");
    const pauseS = Math.min(LONGEST_PAUSE_S, 0.5 * 2 ** this.#failures++) * (0.5 + Math.random() / 2);
    this.state.set("waiting");
    this.#retry = setTimeout(() => {
      this.#retry = 0;
      if (this.#wanted().length) this.#open();
      else this.state.set("closed");
    }, pauseS * 1000);
  }

  #close() {
    clearTimeout(this.#retry);
    this.#retry = 0;
    const socket = this.#socket;
    this.#socket = null;
    // Closed before it is open, a socket is an error on the browser's console, though nothing went wrong.
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket?.close();
    this.state.set("closed");
  }

  #ask() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    const wanted = this.#wanted();
    let watch = wanted;
    if (wanted.length > MOST_WATCHED) {
      this.#turn = (this.#turn + MOST_WATCHED) % wanted.length;
      watch = [...wanted, ...wanted].slice(this.#turn, this.#turn + MOST_WATCHED);
    }
    const asked = JSON.stringify({ watch, ...this.#view });
    if (asked !== this.#asked) {
      this.#asked = asked;
      this.#socket.send(asked);
    }
    if (!wanted.length && !this.#watchers.size) setTimeout(() => this.#watchers.size || this.#close(), LINGER_S * 1000);
  }

  #receive(data) {
    if (!(data instanceof ArrayBuffer) || data.byteLength < 4) return;
    this.#failures = 0;
    const size = new DataView(data).getUint32(0);
    const header = JSON.parse(this.#decoder.decode(new Uint8Array(data, 4, size)));
    const jpeg = new Blob([new Uint8Array(data, 4 + size)], { type: "image/jpeg" });
    for (const callback of this.#watchers.get(header.source_id) ?? []) callback(header, jpeg);
  }
}

export const live = new Live();
