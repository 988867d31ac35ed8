// What came in which pass, what is coming, and what is left aboard.
import { get, single } from "./api.js";
import { byId, el, empty, fill, table, tile } from "./dom.js";
import * as format from "./format.js";

const PAGE = 100;
let drawn = "", offset = 0, wired = false;

export function open() {
  drawn = "";
  if (!wired) {
    wired = true;
    byId("passes-newer").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); list(); });
    byId("passes-older").addEventListener("click", () => { offset += PAGE; list(); });
  }
  list();
}

export function live(state, isShown) {
  if (isShown) list(false);
}

const list = single(async () => {
  let found;
  try {
    found = await get("api/passes", { offset, limit: PAGE });
  } catch (error) {
    fill(byId("passes"), empty(error.message));
    return;
  }
  const text = JSON.stringify(found);
  if (text === drawn) return;
  drawn = text;
  const plan = found.plan;
  fill(byId("passes-now"),
    tile(found.going_on ? "going on" : "none now", "pass"), tile(found.maps.toLocaleString("en"), found.coarse ? `maps here, ${found.coarse} more coarse` : "maps here"),
    tile(format.bytes(found.bytes), "on the ground"),
    tile(plan ? format.count(plan.maps, "map") : "not known", "left aboard"), tile(plan ? format.bytes(plan.bytes) : "no contact", plan ? `in ${format.count(plan.files, "file")} to fetch` : "to fetch"));
  byId("passes-newer").hidden = offset === 0;
  byId("passes-older").hidden = offset + PAGE >= found.count;
  const more = (count) => (count > 0 ? el("p", { class: "soft" }, `and ${format.number(count)} more`) : null);
  fill(byId("coming"), found.coming.length ? table("Begun, to be continued", [["Map"], ["File"], ["Here", "number"]], found.coming.map((row) => ({ cells: [row.title, row.file, format.bytes(row.bytes)] }))) : null, more(found.coming_count - found.coming.length));
  fill(byId("plan"), plan && plan.items.length ? el("details", {}, el("summary", {}, `What the satellite plans next (${format.count(plan.files, "file")})`),
    table("", [["Map"], ["File"], ["Bytes", "number"], ["Priority"], ["Why"]], plan.items.map((row) => ({ cells: [row.map, row.asset, format.bytes(row.length), row.priority, row.reason] }))), more(plan.files - plan.items.length)) : null);
  const note = (row) => [row.problem, row.window_closed ? "the window closed" : "", row.damaged ? `${row.damaged} damaged` : "", row.gone ? `${row.gone} gone aboard` : ""].filter(Boolean).join("; ");
  fill(byId("passes"), found.passes.length
    ? table(`${format.count(found.count, "pass", "passes")}, the newest first`, [["Began", "short"], ["Lasted", "number"], ["Maps", "number"], ["Files", "number"], ["Fetched", "number"], ["Left", "number"], ["Note"]],
      found.passes.map((row) => ({ cells: [format.stamp(row.began), format.span(row.seconds), row.maps + (row.coarse ? ` + ${row.coarse} coarse` : ""), String(row.files), format.bytes(row.received_bytes), row.left ? format.count(row.left, "file") : "nothing", note(row)] })))
    : empty("No pass is in the log of this folder yet."));
});
