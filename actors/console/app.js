// The console: which page is shown, and what surrounds it.
import { Fragment, dismiss, href, html, notices, render, route, useEffect, useErrorBoundary, useState, useStore } from "./lib.js";
import { activeAlertsFeed, serviceFeed, session, signIn, signOut, sourcesFeed } from "./api.js";
import { live } from "./live.js";
import { Icon, IconButton, Loading, ProblemNote } from "./ui.js";
import { Alerts } from "./alerts.js";
import { Camera } from "./camera.js";
import { Service } from "./service.js";
import { SignIn } from "./signin.js";
import { theme, turnTheme } from "./theme.js";
import { Wall } from "./wall.js";

/** Whether what is on the page is of now. */
function Connection() {
  const pictures = useStore(live.state);
  const { problem } = useStore(sourcesFeed());
  const [kind, text] = problem
    ? ["bad", "no answer"]
    : { open: ["good", "live"], connecting: ["calm", "connecting"], waiting: ["bad", "reconnecting"], closed: ["calm", "connected"] }[pictures];
  return html`<span class="badge ${kind} connection" role="status"><span class="mark" aria-hidden="true"></span>${text}</span>`;
}

function Header() {
  const [page] = useStore(route);
  const dark = useStore(theme) === "dark";
  const { token, access } = useStore(session);
  const alerts = useStore(activeAlertsFeed()).data?.items.length ?? 0;
  const link = (name, icon, text, note) => html`
    <a href=${href(name)} aria-current=${(page ?? "wall") === name || (page === "camera" && name === "wall") ? "page" : undefined}>
      <${Icon} name=${icon} /><span>${text}</span>${note}
    </a>
  `;
  return html`
    <header class="top">
      <a class="brand" href=${href("wall")}><img src="console/icon.svg" alt="" width="26" height="26" /><span>framewatch</span></a>
      <nav aria-label="Pages">
        ${link("wall", "wall", "Cameras")}
        ${link("alerts", "bell", "Alerts", alerts > 0 && html`<span class="number" aria-label="${alerts} active">${alerts}</span>`)}
        ${link("service", "pulse", "Service")}
      </nav>
      <div class="tools">
        <${Connection} />
        <${IconButton} icon=${dark ? "sun" : "moon"} label=${dark ? "Light colours" : "Dark colours"} onClick=${turnTheme} />
        ${token && html`<${IconButton} icon="out" label="Sign out ${access?.name ?? ""}" onClick=${() => signOut()} />`}
      </div>
    </header>
  `;
}

/** A part that fails does not take the page with it. */
function Page({ children }) {
  const [error, reset] = useErrorBoundary((caught) => console.error(caught));
  const [page] = useStore(route);
  useEffect(() => reset(), [page]);
  if (!error) return children;
  return html`<${ProblemNote} problem=${{ message: `This page has failed: ${error.message}` }} onRetry=${() => location.reload()} />`;
}

const Notices = () => html`
  <div class="notices" role="status" aria-live="polite">
    ${useStore(notices).map(
      ({ id, text, kind }) => html`<p key=${id} class="notice ${kind}">
        <${Icon} name=${kind === "bad" ? "warning" : "check"} /><span>${text}</span>
        <${IconButton} icon="cross" label="Dismiss" onClick=${() => dismiss(id)} />
      </p>`,
    )}
  </div>
`;

function Content() {
  const [page, name] = useStore(route);
  useEffect(() => {
    const titles = { alerts: "Alerts", service: "Service", camera: name };
    document.title = `${titles[page] ?? "Cameras"} · framewatch`;
    scrollTo(0, 0);
  }, [page, name]);
  if (page === "camera" && name) return html`<${Camera} key=${name} id=${name} />`;
  if (page === "alerts") return html`<${Alerts} tab=${name} />`;
  if (page === "service") return html`<${Service} />`;
  return html`<${Wall} />`;
}

/** The wall is not shown before it is known whether a token is wanted. */
function Asking() {
  const [problem, setProblem] = useState(null);
  const [tries, setTries] = useState(0);
  useEffect(() => {
    let timer = 0;
    signIn(session.value.token).catch((caught) => {
      setProblem(caught);
      timer = setTimeout(() => setTries(tries + 1), Math.min(15, 2 ** tries) * 1000);
    });
    return () => clearTimeout(timer);
  }, [tries]);
  return html`<main class="page">${problem ? html`<${ProblemNote} problem=${problem} onRetry=${() => setTries(tries + 1)} />` : html`<${Loading} what="the console" />`}</main>`;
}

function App() {
  const { phase } = useStore(session);
  if (phase === "asking") return html`<${Asking} />`;
  if (phase === "out") return html`<${SignIn} />`;
  return html`<${Fragment}>
    <a class="skip" href="#content" onClick=${(event) => (event.preventDefault(), document.getElementById("content").focus())}>Skip to the content</a>
    <${Header} />
    <main class="page" id="content" tabindex="-1"><${Page}><${Content} /><//></main>
    <${Notices} />
  <//>`;
}

render(html`<${App} />`, document.getElementById("app"));
