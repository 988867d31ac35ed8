// The model aboard and the engine that runs it.
import { byId, el, empty, fill, swatch } from "./dom.js";
import * as format from "./format.js";

export function open(state) {
  if (state) live(state, true);
}

export function live(state, isShown) {
  if (!isShown) return;
  const engine = state.link === "up" && state.snapshot ? state.snapshot.engine : null;
  const list = (pairs) => el("dl", { class: "facts" }, ...pairs.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const parts = [el("h3", {}, "Aboard now")];
  if (engine) {
    const snapshot = state.snapshot;
    parts.push(list([["Model", engine.model], ["State", engine.state], ["Problem", engine.problem], ["Backend", engine.backend], ["Precision", engine.precision],
      ["Mapping", snapshot.scene ? `${snapshot.scene}, ${snapshot.tiles_done} of ${snapshot.tiles_all} tiles` : "idle"],
      ["Speed", snapshot.tiles_per_s === null ? "" : `${format.rate(snapshot.tiles_per_s)} tiles/s, mean of the last minute`],
      ["Disk", `${format.bytes(snapshot.disk.free_bytes)} free`],
      ["Service", state.ready ? [state.ready.status, ...state.ready.problems].join("; ") : ""]]));
    const sources = Object.entries(snapshot.sources);
    if (sources.length) parts.push(el("h3", {}, "Sources of telemetry"), list(sources.map(([name, problem]) => [name, problem || "measures"])));
  } else parts.push(el("p", { class: "soft" }, state.link === "off" ? "No satellite is named." : "No contact now."));
  parts.push(el("h3", {}, "Of the newest map here"));
  if (state.model) {
    parts.push(list([["Model", `${state.model.name} ${state.model.version}`], ["SHA-256", state.model.sha256], ["Terms", state.model.terms]]),
      ...state.model.heads.flatMap((head) => [state.model.heads.length > 1 ? el("h4", {}, `Head ${head.name}`) : null,
        el("ul", { class: "plain" }, ...head.legend.map((row) => el("li", {}, swatch(row.color), row.title)))]));
  } else parts.push(empty("No map here says its model."));
  fill(byId("model"), ...parts);
}
