// A map's legend, and its facts.
import { el, swatch, table } from "./dom.js";
import * as format from "./format.js";

/** Of one head; its name is said where the map has several. */
export function legend(head, named = false) {
  if (!head.legend.length) return el("p", { class: "soft" }, "This map says no classes.");
  const withArea = head.legend.some((row) => row.area_m2 !== null);
  const columns = [["Class"], ["Share", "number"], ...(withArea ? [["Area", "number"]] : [])];
  const rows = head.legend.map((row) => ({
    cells: [[swatch(row.color), row.title], format.share(row.share), format.area(row.area_m2)],
  }));
  return table(named ? `Legend of ${head.name}` : "Legend", columns, rows, { class: "legend" });
}

/** Why a map is a guess, where it is one: nobody should read its legend without it. */
export function doubts(detail) {
  const lines = detail.facts.doubts || [];
  return lines.length ? el("div", { class: "guess", role: "note" }, el("strong", {}, "Treat this map as a guess"), ...lines.map((line) => el("p", {}, line))) : null;
}

function familiarity(found) {
  if (!found || found.unknown) return `not known: ${found ? found.unknown : "the map's item does not say it"}`;
  if (found.tiles === null || found.tiles_unfamiliar === null) return found.share_unfamiliar === null ? "not known" : `${format.share(1 - found.share_unfamiliar)} of the tiles`;
  const middle = found.median === null ? "" : ` (median ${found.median.toFixed(2)})`;
  return `${format.number(found.tiles - found.tiles_unfamiliar)} of ${format.count(found.tiles, "tile")}${middle}`;
}

export function facts(detail, head = detail.heads[0]) {
  const list = el("dl", { class: "facts" });
  const add = (name, value) => { if (value) list.append(el("dt", {}, name), el("dd", {}, value)); };
  const known = detail.facts;
  add("Time", `${format.time(detail.time_s)}${(known.datetime_is || "").startsWith("reception") ? " (received)" : ""}`);
  add("Area", detail.area_m2 === null ? "" : format.area(detail.area_m2));
  add("File", `${format.bytes(detail.bytes)}, ${detail.state}${detail.acknowledged ? ", receipt given" : ""}`);
  add("Pixel", known.gsd ? format.length(known.gsd) : "");
  add("Confidence", head.mean_confidence === null ? "" : `${format.share(head.mean_confidence)} on average`);
  add("Resolution", known.resolution ? known.resolution.text || known.resolution.rule : "");
  add("Familiar", known.model ? familiarity(known.familiarity) : "");
  add("Model", known.model ? `${known.model.name} ${known.model.version}` : "");
  add("Heads", detail.heads.length > 1 ? detail.heads.map((row) => row.name).join(", ") : "");
  add("Terms", known.model ? known.model.terms : "");
  add("Place", detail.bounds ? { gcps: "by control points", rpcs: "by rational polynomials" }[known.georeferencing] || "" : known.geometry_missing || "none");
  add("Energy", known.energy_j ? format.joules(known.energy_j) : "");
  add("Note", detail.problem);
  return list;
}
