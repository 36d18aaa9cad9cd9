// Sign-in: asks for the token, where the service wants one.
import { html, useEffect, useRef, useState, useStore } from "./lib.js";
import { session, signIn } from "./api.js";
import { Form } from "./ui.js";

export function SignIn() {
  const { reason } = useStore(session);
  const [token, setToken] = useState("");
  const input = useRef(null);
  useEffect(() => input.current.focus(), []);
  return html`
    <main class="sign-in">
      <article>
        <img src="console/icon.svg" alt="" width="48" height="48" />
        <h1>framewatch</h1>
        <${Form} submit="Sign in" onSubmit=${() => signIn(token.trim())}>
          ${() => html`
            <div class="field">
              <label for="token">Token</label>
              <input
                id="token"
                ref=${input}
                type="password"
                autocomplete="current-password"
                value=${token}
                onInput=${(event) => setToken(event.target.value)}
                aria-invalid=${reason ? "true" : undefined}
                aria-describedby="token-note"
                required
              />
              <small id="token-note" class=${reason ? "reason" : ""} role=${reason ? "alert" : undefined}>
                ${reason || html`It was printed, or its file named, when the service started: <code>token</code> in the service's <code>state_dir</code>.`}
              </small>
            </div>
          `}
        <//>
      </article>
    </main>
  `;
}
