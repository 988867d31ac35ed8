// Which view is shown, the link's state, and the theme.
import { get, single } from "./api.js";
import { byId, el, fill } from "./dom.js";
import * as format from "./format.js";
import * as curves from "./curves.js";
import * as events from "./events.js";
import * as map from "./map.js";
import * as model from "./model.js";
import * as passes from "./passes.js";
import * as pictures from "./pictures.js";
import * as queue from "./queue.js";

const VIEWS = { map, pictures, curves, events, queue, passes, model };
const EVERY_MS = 2000;
let shown = "";
let lastPoint = 0, session = null;
let live = null;

function show() {
  const name = location.hash.slice(1);
  if (name === "main") return;
  const wanted = name in VIEWS ? name : "map";
  if (wanted === shown) return;
  shown = wanted;
  for (const view of Object.keys(VIEWS)) byId(`view-${view}`).hidden = view !== wanted;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${document.querySelector("header nav a[aria-current]").firstChild.textContent.trim()} – Ground console`;
  VIEWS[wanted].open(live);
}

function words(state) {
  if (state.link === "off") return "no satellite named: what the station holds";
  if (state.link === "up") return `in contact${state.going_on ? ", a pass is going on" : ""}`;
  if (state.link === "connecting") return "calling the satellite …";
  return `no contact: ${state.problem}`;
}

function trouble(text) {
  const banner = byId("trouble");
  banner.hidden = !text;
  banner.textContent = text || "";
}

const poll = single(async () => {
  try {
    let state = await get("api/live", { since: lastPoint });
    if (state.session !== session) {
      // Another process answers, whose points are counted from the beginning.
      if (session !== null) state = await get("api/live", { since: 0 });
      session = state.session;
      lastPoint = 0;
      curves.restart();
    }
    if (state.points.length) lastPoint = state.points[state.points.length - 1].number;
    live = state;
    trouble("");
    const link = byId("link");
    link.dataset.link = state.link;
    link.querySelector(".words").textContent = words(state);
    link.title = words(state);
    byId("name").hidden = !state.name;
    byId("name").textContent = state.name;
    const waiting = state.scenes.filter((scene) => scene.state === "queued" || scene.state === "running").length;
    byId("queue-count").hidden = !waiting || state.link !== "up";
    byId("queue-count").textContent = waiting;
    curves.take(state.points);
    for (const view of Object.values(VIEWS)) view.live?.(state, view === VIEWS[shown]);
  } catch (error) {
    trouble(error.message);
    byId("link").dataset.link = "down";
    byId("link").querySelector(".words").textContent = "the console's server does not answer";
  }
});

async function loop() {
  if (!document.hidden) await poll(false);
  setTimeout(loop, EVERY_MS);
}

function theme() {
  const button = byId("theme");
  const name = () => { button.textContent = `Theme: ${window.consoleTheme.choice}`; };
  button.addEventListener("click", () => {
    const next = { auto: "dark", dark: "light", light: "auto" };
    window.consoleTheme.choice = next[window.consoleTheme.choice];
    name();
  });
  name();
}

theme();
window.addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(false); });
show();
loop();
