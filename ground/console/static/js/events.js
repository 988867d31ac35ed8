// Events of the satellite, and their acknowledgement.
import { get, post, single } from "./api.js";
import { byId, el, empty, fill, table } from "./dom.js";
import * as format from "./format.js";

const PAGE = 100;
// Sequence numbers before which the page that is shown, and those that were turned over, begin.
let before = [], oldest = null, newest = null, wired = false, problem = "", polls = 0, drawn = "";

export function open() {
  if (!wired) {
    wired = true;
    byId("severity").addEventListener("change", () => { before = []; list(); });
    byId("events-more").addEventListener("click", () => { before.push(oldest); list(); });
    byId("events-newer").addEventListener("click", () => { before.pop(); list(); });
    byId("acknowledge").addEventListener("click", () => { if (newest !== null) acknowledge(newest); });
  }
  list();
}

export function live(state, isShown) {
  polls += 1;
  if (isShown ? wired : polls % 5 === 1) list(false);
}

async function acknowledge(until) {
  problem = "";
  try {
    problem = (await post("api/events/acknowledged", { until })).problem;
  } catch (error) {
    problem = error.message;
  }
  list();
}

const list = single(async () => {
  let found;
  try {
    found = await get("api/events", { severity: byId("severity").value, limit: PAGE, before: before[before.length - 1] });
  } catch (error) {
    byId("events-note").textContent = error.message;
    return;
  }
  newest = found.newest;
  const badge = byId("events-waiting");
  badge.hidden = !found.waiting;
  badge.textContent = found.waiting;
  const text = JSON.stringify(found) + problem;
  if (byId("view-events").hidden || text === drawn) return;
  drawn = text;
  byId("events-note").textContent = problem || (found.count ? `${format.count(found.count, "event")}; ${found.waiting ? `${format.count(found.waiting, "warning")} not acknowledged` : "all warnings acknowledged"}` : "");
  byId("acknowledge").disabled = newest === null || newest <= found.acknowledged;
  oldest = found.events.length ? found.events[found.events.length - 1].sequence : null;
  byId("events-more").hidden = !found.more;
  byId("events-newer").hidden = !before.length;
  const lines = found.events.map((event) => {
    const isNew = event.sequence > found.acknowledged;
    return {
      class: isNew && event.severity !== "info" ? "new" : "",
      cells: [String(event.sequence), format.stamp(event.utc) + (event.clock_synchronised ? "" : " ?"),
        el("span", { class: `severity-${["error", "warning", "info"].includes(event.severity) ? event.severity : "info"}` }, event.severity), event.kind,
        [event.text, event.stored ? null : el("span", { class: "soft" }, " (not stored here yet)")],
        isNew ? el("button", { type: "button", class: "quiet", "aria-label": `Acknowledge up to event ${event.sequence}`, click: () => acknowledge(event.sequence) }, "Acknowledge") : "seen"],
    };
  });
  fill(byId("events"), lines.length
    ? table("", [["No.", "short"], ["Time aboard", "short"], ["Severity", "short"], ["Kind", "short"], ["Text"], ["", "short"]], lines)
    : empty("No event is here. `ground telemetry` brings them."),
    found.events.some((event) => !event.clock_synchronised) ? el("p", { class: "soft" }, "? the clock aboard was not synchronised") : null);
});
