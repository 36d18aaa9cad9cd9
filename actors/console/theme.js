// Light or dark: what was chosen on this page, else what the system prefers.
import { Store } from "./lib.js";

const KEY = "framewatch.theme";
const darkWanted = matchMedia("(prefers-color-scheme: dark)");
const wanted = () => localStorage.getItem(KEY) ?? (darkWanted.matches ? "dark" : "light");

export const theme = new Store(wanted());
const show = () => (document.documentElement.dataset.theme = theme.value);

show();
theme.subscribe(show);
darkWanted.addEventListener("change", () => theme.set(wanted()));

export function turnTheme() {
  localStorage.setItem(KEY, theme.value === "dark" ? "light" : "dark");
  theme.set(wanted());
}
