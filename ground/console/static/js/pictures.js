// A grid of quicklooks: maps without a place have no other home.
import { get } from "./api.js";
import { byId, el, empty, fill, guess } from "./dom.js";
import * as format from "./format.js";
import { doubts, facts, legend } from "./legend.js";

const PAGE = 48;
let offset = 0, wired = false;

export function open() {
  if (!wired) {
    wired = true;
    byId("pictures-which").addEventListener("change", () => { offset = 0; list(); });
    byId("pictures-newer").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); list(); });
    byId("pictures-older").addEventListener("click", () => { offset += PAGE; list(); });
  }
  list();
}

async function list() {
  const which = byId("pictures-which").value;
  let found;
  try {
    found = await get("api/maps", { located: which, offset, limit: PAGE });
  } catch (error) {
    byId("pictures-count").textContent = error.message;
    return;
  }
  byId("pictures-count").textContent = `${format.count(found.count, "map")}${which ? " without a place" : ""}`;
  const cards = found.maps.map((row) => el("li", {}, el("button", { type: "button", click: () => show(row.id) },
    row.has_quicklook ? el("img", { src: `api/maps/${encodeURIComponent(row.id)}/quicklook`, alt: "", loading: "lazy" }) : el("span", { class: "blank" }),
    el("span", { class: "title" }, row.title), el("span", { class: "soft" }, `${format.time(row.time_s)} · ${row.bytes ? format.bytes(row.bytes) : row.state}`), guess(row))));
  fill(byId("pictures"), ...(cards.length ? cards : [el("li", {}, empty(which ? "Every map has a place." : "No map has come yet."))]));
  byId("pictures-newer").hidden = offset === 0;
  byId("pictures-older").hidden = offset + PAGE >= found.count;
}

/** The map of a head as a picture, where it has come. */
function picture(id, head, number) {
  if (!head.has_quicklook) return null;
  const which = number ? `?head=${encodeURIComponent(head.asset)}` : "";
  return el("img", { src: `api/maps/${encodeURIComponent(id)}/quicklook${which}`, alt: `The map${number ? ` of ${head.name}` : ""} as a picture; its classes are in the legend below` });
}

async function show(id) {
  const detail = await get(`api/maps/${encodeURIComponent(id)}`);
  const dialog = byId("picture");
  fill(dialog,
    el("h3", { id: "picture-title", class: "detail-title" }, detail.title),
    doubts(detail), ...detail.heads.flatMap((head, number) => [picture(id, head, number), legend(head, detail.heads.length > 1)]), facts(detail),
    el("p", {}, el("button", { type: "button", click: () => dialog.close() }, "Close")));
  dialog.showModal();
}
