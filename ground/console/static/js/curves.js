// Power, speed, heat and energy: from the station's files, and live in a pass.
import { get } from "./api.js";
import { byId, color, el, empty, fill, table, tile } from "./dom.js";
import * as format from "./format.js";

const SPANS = [["Live", "live"], ["1 day", 86400], ["7 days", 7 * 86400], ["30 days", 30 * 86400], ["All", null]];
// Okabe and Ito's colours: told apart with any colour vision, on light and on dark.
const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c8c8c"];
const HEIGHT = 190, MOST_LIVE = 1800, MOST_ZONES = 6;
let chosen = null, points = [], charts = [], last = null, number = 0;

/** The server began anew: what was drawn so far is another count. */
export function restart() {
  points = [];
}

export function take(fresh) {
  if (fresh.length && points.length && fresh[0].number <= points[points.length - 1].number) points = [];
  points = [...points, ...fresh].slice(-MOST_LIVE);
}

export function open(state) {
  if (chosen === null) {
    chosen = state && state.link === "up" ? "live" : 7 * 86400;
    fill(byId("spans"), ...SPANS.map(([name, span]) => el("button", { type: "button", class: "quiet", "data-span": String(span), click: () => choose(span) }, name)));
    document.addEventListener("theme", () => { if (last) draw(last); });
    new ResizeObserver(() => { for (const chart of charts) chart.setSize({ width: width(), height: HEIGHT }); }).observe(byId("charts"));
  }
  choose(chosen);
}

export function live(state, isShown) {
  now(state);
  if (isShown && chosen === "live") draw(ofLive());
}

function choose(span) {
  chosen = span;
  for (const button of byId("spans").children) button.setAttribute("aria-pressed", String(button.dataset.span === String(span)));
  if (span === "live") draw(ofLive());
  else load(span);
}

async function load(span) {
  const mine = ++number;
  let found;
  try {
    found = await get("api/curves", { last: span });
  } catch (error) {
    found = { problem: error.message };
  }
  if (mine !== number || chosen === "live") return;
  if (found.problem) {
    clear();
    fill(byId("charts"), empty(found.problem));
    byId("curves-note").textContent = "";
    return;
  }
  draw(found);
}

function ofLive() {
  const rails = [...new Set(points.flatMap((point) => Object.keys(point.power_w)))].sort();
  const zones = [...new Set(points.flatMap((point) => Object.keys(point.temperature_c)))].sort();
  const column = (name, key) => points.map((point) => point[name][key] ?? null);
  const states = points.filter((point, at) => !at || points[at - 1].governor !== point.governor);
  return {
    live: true, time_s: points.map((point) => point.time_s),
    power_w: Object.fromEntries(rails.map((rail) => [rail, column("power_w", rail)])),
    temperature_c: Object.fromEntries(zones.map((zone) => [zone, column("temperature_c", zone)])),
    tiles_per_s: points.map((point) => point.tiles_per_s), busy: points.map((point) => (point.busy ? 1 : 0)),
    rails: [], orbits: [], governor: states.map((point) => ({ utc: point.utc, state: point.governor, text: "" })),
  };
}

const mean = (values) => {
  const there = values.filter((value) => value !== null);
  return there.reduce((sum, value) => sum + value, 0) / Math.max(1, there.length);
};
const some = (values) => values.some((value) => value !== null);
const width = () => Math.max(260, byId("charts").clientWidth - 24);

function clear() {
  for (const chart of charts) chart.destroy();
  charts = [];
  last = null;
  for (const id of ["charts", "rails", "governor"]) fill(byId(id));
}

function draw(curves) {
  clear();
  last = curves;
  const times = curves.time_s;
  if (curves.live && times.length < 2) {
    fill(byId("charts"), empty(byId("link").dataset.link === "up" ? "Waiting for the first telemetry of this pass …" : "No contact: live curves come with the next pass."));
    byId("curves-note").textContent = "";
    return;
  }
  byId("curves-note").textContent = curves.live
    ? `Live: the last ${format.span(times[times.length - 1] - times[0])}. Shaded: a scene is being mapped.`
    : [`${format.time(times[0])} to ${format.time(times[times.length - 1])}, ${format.count(curves.rows, "row")} of telemetry. Shaded: a scene is being mapped.`, ...notes(curves)].join(" ");
  const rails = Object.entries(curves.power_w).filter(([, values]) => some(values)).sort((a, b) => mean(b[1]) - mean(a[1]));
  const zones = Object.entries(curves.temperature_c).filter(([, values]) => some(values)).sort((a, b) => Math.max(...b[1]) - Math.max(...a[1])).slice(0, MOST_ZONES);
  chart("Power by rail", "W", times, rails, curves.busy, "no power was measured");
  chart("Tiles a second", "tiles/s", times, some(curves.tiles_per_s) ? [["tiles/s", curves.tiles_per_s]] : [], curves.busy, "nothing was mapped");
  chart("Temperature", "°C", times, zones, curves.busy, "no temperature was measured");
  if (!curves.live) {
    const starts = curves.orbits.map((orbit) => orbit.begin_s);
    const title = `Energy of ${curves.main || "the main rail"}, each orbit of ${format.span(curves.orbit_s)}`;
    chart(title, "kJ", starts, starts.length ? [["kJ", curves.orbits.map((orbit) => orbit.energy_j / 1e3)]] : [], null, "no orbit was measured", true);
    fill(byId("rails"), curves.rails.length ? table("Power in this span", [["Rail"], ["Idle", "number"], ["Work", "number"], ["Above idle", "number"], ["Mean", "number"], ["Peak", "number"], ["Energy", "number"], ["Measured", "number"]],
      curves.rails.map((row) => ({ cells: [row.rail + (row.rail === curves.main ? " (main)" : ""), format.watts(row.idle_w), format.watts(row.work_w), row.idle_w === null || row.work_w === null ? "–" : format.watts(row.work_w - row.idle_w), format.watts(row.mean_w), format.watts(row.peak_w), format.joules(row.energy_j), format.span(row.measured_s)] }))) : null);
  }
  performance.mark("curves drawn");
  const states = curves.governor.slice(-12).reverse();
  fill(byId("governor"), states.length ? table("Governor, the newest first", [["Since"], ["State"], ["Why"]], states.map((row) => ({ cells: [format.stamp(row.utc), row.state, row.text] }))) : null);
}

/** What speaks against the curves. */
function notes(curves) {
  const unread = curves.unread.length;
  return [
    curves.clock_set_back ? "The clock aboard was set back in this time." : "",
    curves.clock_unset_rows ? `${format.count(curves.clock_unset_rows, "row")} of a clock that was not set: placed by running time.` : "",
    unread ? `${format.count(unread, "file")} left out: ${curves.unread[0]}${unread > 1 ? ", ..." : ""}; move ${unread > 1 ? "them" : "it"} away.` : "",
  ].filter(Boolean);
}

/** Values between two gaps: a line has no length there, so they are drawn as points. */
function lone(plot, at, isShown) {
  if (isShown) return null;
  const values = plot.data[at];
  const missing = (value) => value === null || value === undefined;
  const found = values.flatMap((value, i) => (!missing(value) && missing(values[i - 1]) && missing(values[i + 1]) ? [i] : []));
  return found.length ? found : null;
}

function chart(title, unit, times, series, busy, nothing, bars = false) {
  const frame = el("div", { role: "img", "aria-label": `${title}: ${series.map(([name]) => name).join(", ") || nothing}` });
  const figure = el("figure", {}, el("figcaption", {}, `${title}${series.length ? `, ${unit}` : ""}`), series.length ? frame : el("p", { class: "soft" }, `Not shown: ${nothing}.`));
  byId("charts").append(figure);
  if (!series.length) return;
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") }, font: "12px system-ui, sans-serif" };
  const dark = document.documentElement.dataset.theme === "dark";
  const options = {
    width: width(), height: HEIGHT, tzDate: (stamp) => uPlot.tzDate(new Date(stamp * 1e3), "Etc/UTC"),
    scales: { y: { range: (_, low, high) => (unit === "°C" ? [Math.floor(low - 2), Math.ceil(high + 2)] : [0, (high || 1) * 1.08]) } },
    axes: [{ ...axis, values: DATES }, { ...axis, size: 52 }],
    legend: { live: true },
    series: [{ label: "", value: (_, stamp) => (stamp === null || stamp === undefined ? "" : format.time(stamp)) },
      ...series.map(([name], at) => ({
        label: name, stroke: PALETTE[(dark && at === 0 ? 5 : dark && at === 5 ? 0 : at) % PALETTE.length], width: 1.6, spanGaps: false, points: bars ? { show: false } : { size: 4, filter: lone },
        ...(bars ? { fill: (dark ? PALETTE[5] : PALETTE[0]) + "99", paths: uPlot.paths.bars({ size: [0.8, 40] }) } : {}),
        value: (plot, value) => (plot.cursor.idx === null || plot.cursor.idx === undefined ? "" : value === null || value === undefined ? "not measured" : `${value.toFixed(2)} ${unit}`),
      }))],
    hooks: busy ? { drawClear: [(plot) => shade(plot, times, busy)] } : {},
  };
  charts.push(new uPlot(options, [times, ...series.map(([, values]) => values)], frame));
}

/** Dates of the axis by day and month, not month and day. */
const DATES = [
  [86400 * 28, "{MMM}\n{YYYY}", null, null, null, null, null, null, 0],
  [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [3600, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, ":{ss}", "\n{D} {MMM} {HH}:{mm}", null, "\n{D} {MMM} {HH}:{mm}", null, "\n{HH}:{mm}", null, 1],
  [0.001, ":{ss}.{fff}", "\n{HH}:{mm}", null, "\n{HH}:{mm}", null, "\n{HH}:{mm}", null, 1],
];

/** Spans in which a scene was being mapped, behind the curves. */
function shade(plot, times, busy) {
  const { ctx, bbox } = plot;
  const half = times.length > 1 ? (times[1] - times[0]) / 2 : 0;
  ctx.save();
  ctx.fillStyle = color("--work");
  for (let at = 0; at < times.length; at += 1) {
    if (!(busy[at] > 0.5)) continue;
    let end = at;
    while (end + 1 < times.length && busy[end + 1] > 0.5) end += 1;
    const [from, to] = [times[at] - half, times[end] + half].map((stamp) => plot.valToPos(stamp, "x", true));
    const left = Math.max(bbox.left, from), right = Math.min(bbox.left + bbox.width, to);
    if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
    at = end;
  }
  ctx.restore();
}

function now(state) {
  const snapshot = state.link === "up" ? state.snapshot : null;
  if (!snapshot) {
    fill(byId("now"));
    return;
  }
  const power = snapshot.power;
  fill(byId("now"),
    tile(format.watts(power.power_w), power.power_w === null ? power.reason || "no power source" : `${power.rail}, now`),
    power.idle_w === null ? null : tile(format.watts(power.idle_w), "idle, calibrated"),
    power.net_w === null ? null : tile(format.watts(power.net_w), "above idle"),
    tile(format.rate(snapshot.tiles_per_s), "tiles/s, last minute"),
    tile(format.celsius(power.hottest_c), power.throttling ? "hottest; throttling" : "hottest"),
    tile(snapshot.governor.state, snapshot.governor.why || "governor"),
    ...power.rails.filter((rail) => rail.rail === power.rail).map((rail) => tile(format.joules(rail.energy_j), "energy since the start")));
}
