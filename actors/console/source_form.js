// Add a camera, change its settings, remove it.
import { html, notify, useState, useStore } from "./lib.js";
import { reloadAll, rulesFeed, segment, send, serviceFeed } from "./api.js";
import { Confirm, Dialog, Field, Form } from "./ui.js";

const FIELDS = ["id", "uri", "detector", "fps", "decode", "gate", "tamper", "realtime"];

function settings(form, isNew) {
  const body = { uri: form.uri.trim(), detector: form.detector || null, fps: form.fps === "" ? null : Number(form.fps) };
  if (isNew) body.id = form.id.trim();
  return { ...body, decode: form.decode, gate: form.gate, tamper: form.tamper };
}

/** The dialog for a new camera, or for the settings of `source`. */
export function SourceForm({ source, onClose, onDone }) {
  const detectors = Object.keys(useStore(serviceFeed()).data?.detectors ?? {});
  const [form, setForm] = useState({
    id: source?.id ?? "",
    uri: source?.uri ?? "",
    detector: source?.detector ?? "",
    fps: source ? (source.fps ?? "") : "5",
    decode: source?.decode_setting ?? "auto",
    gate: source?.gate_setting ?? "auto",
    tamper: source?.tamper_setting ?? "auto",
  });
  const input = (name) => ({ name, value: form[name], onInput: (event) => setForm({ ...form, [name]: event.target.value }) });
  const save = async () => {
    if (source) await send("PATCH", `v1/sources/${segment(source.id)}`, settings(form, false));
    else await send("POST", "v1/sources", settings(form, true));
    notify(source ? `${source.id} is changed.` : `${form.id} is added; its first picture comes in a few seconds.`);
    await reloadAll();
    onDone?.(form.id.trim());
    onClose();
  };
  return html`
    <${Dialog} title=${source ? `Settings of ${source.id}` : "Add a camera"} onClose=${onClose}>
      <${Form} submit=${source ? "Save" : "Add camera"} onSubmit=${save} onClose=${onClose} fields=${FIELDS}>
        ${(problem) => html`
          ${!source &&
          html`<${Field} label="Name" hint="Letters, digits, dot, dash and underscore." reason=${problem?.at("id")} autocomplete="off" ...${input("id")} />`}
          <${Field}
            label="Address"
            hint=${source ? "*** stands for the password that is stored." : "rtsp://user:password@camera/stream, or simulate://plaza?people=20"}
            reason=${problem?.at("uri")}
            autocomplete="off"
            spellcheck=${false}
            ...${input("uri")}
          />
          <div class="columns">
            <${Field} label="Detector" reason=${problem?.at("detector")} ...${input("detector")}>
              <option value="">the first</option>
              ${detectors.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
            <//>
            <${Field} label="Analysed frames per second" type="number" min="0.1" step="any" placeholder="all" reason=${problem?.at("fps")} ...${input("fps")} />
            <${Field} label="Decode" reason=${problem?.at("decode")} ...${input("decode")}>
              ${["auto", "full", "fast", "key"].map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
            <//>
            <${Field} label="Sleep while the scene is still" reason=${problem?.at("gate")} ...${input("gate")}>
              ${["auto", "on", "off"].map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
            <//>
            <${Field} label="Watch for tampering" hint="off for a camera that turns" reason=${problem?.at("tamper")} ...${input("tamper")}>
              ${["auto", "on", "off"].map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
            <//>
          </div>
        `}
      <//>
    <//>
  `;
}

const pathsOf = (rule) => [rule.zone, rule.line, ...(rule.zones ?? [])].filter(Boolean);
const names = (rule, sourceId) => rule.source === sourceId || pathsOf(rule).some((path) => path.startsWith(`${sourceId}/`));

/** Ask, and say which rules go with it. */
export function RemoveSource({ source, onClose, onDone }) {
  const rules = (useStore(rulesFeed()).data ?? []).filter((rule) => names(rule, source.id)).map((rule) => rule.name);
  const remove = async () => {
    await send("DELETE", `v1/sources/${segment(source.id)}${rules.length ? "?cascade=true" : ""}`);
    notify(`${source.id} is removed.`);
    await reloadAll();
    onClose();
    onDone?.();
  };
  const text = rules.length
    ? `${source.id} is no longer watched, and the rules that name it go with it: ${rules.join(", ")}.`
    : `${source.id} is no longer watched. Events that were sent stay where they are.`;
  return html`<${Confirm} title="Remove ${source.id}?" text=${text} submit="Remove" onConfirm=${remove} onClose=${onClose} />`;
}
