// The world view: outlines of all maps, tiles of those that are near enough, one map's details, before and after.
import { get } from "./api.js";
import { byId, color, el, empty, fill, guess, swatch } from "./dom.js";
import * as format from "./format.js";
import { doubts, facts, legend } from "./legend.js";

const PAGE = 50, MOST_TILED = 12, TILED_FROM_PX = 48, DOT_BELOW_PX = 12;
const BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
let sayDrawn = null;
const firstDrawn = new Promise((done) => { sayDrawn = done; });
const query = { text: "", begin: null, end: null };
const tiled = new Map();
let world = null, ground = null, land = null, grid = null, outlineGroup = null, outlines = [], offset = 0, listed = 0, leftOut = 0, asked = 0, askedList = 0;
// The head of the selected map that is shown, and its layer: map (classes) or confidence.
let head = null, kind = "map";
let selected = null, layers = {}, other = null, fitted = false, fitting = false, seenVersion = null;

export function open() {
  if (!world) {
    build();
    refresh();
  }
  setTimeout(() => world.invalidateSize(), 0);
}

export function live(state, isShown) {
  // The first answer is still to come, and says its version itself.
  if (!world || !isShown || seenVersion === null || state.maps_version === seenVersion) return;
  seenVersion = state.maps_version; // else each poll would ask anew until the answer is here
  refresh();
}

function build() {
  world = L.map("leaflet", { preferCanvas: true, worldCopyJump: true, minZoom: 1, maxZoom: 22, attributionControl: false });
  L.control.attribution({ prefix: false }).addAttribution("Land outline: Natural Earth 1:110m").addTo(world);
  L.control.scale({ imperial: false, maxWidth: 160 }).addTo(world);
  window.consoleMap = world;
  world.setView([15, 20], 2);
  for (const [name, level] of [["land", 200], ["scene", 300], ["tiles", 310], ["before", 320], ["after", 330]]) world.createPane(name).style.zIndex = level;
  world.getPane("land").style.pointerEvents = "none";
  outlineGroup = L.layerGroup().addTo(world);
  ground = L.canvas({ pane: "land", padding: 0.2 });
  const atlasIsHere = fetch(new URL("../vendor/world-atlas/land-110m.json", import.meta.url)).then((answer) => answer.json());
  // After the first outlines: each change of zoom projects all of its points anew.
  Promise.all([atlasIsHere, firstDrawn]).then(([atlas]) => {
    const shapes = unwrapped(topojson.feature(atlas, atlas.objects.land));
    land = L.geoJSON(shapes, { pane: "land", renderer: ground, interactive: false, style: landStyle }).addTo(world);
  }).catch(() => {});
  grid = graticule().addTo(world);
  world.on("zoomend", () => { if (!fitting) drawOutlines(); });
  world.on("moveend", () => { if (!fitting) drawTiles(); });
  world.on("move zoom resize", clip);
  world.on("click", click);
  document.addEventListener("theme", restyle);
  wireFilter();
  byId("swipe").querySelector("input").addEventListener("input", clip);
}

/** Rings that cross the antimeridian run on beyond it, and one around a pole goes through the pole; a copy on each side. */
function unwrapped(shapes) {
  const run = (ring) => {
    let shift = 0;
    const points = ring.map(([lon, lat], at) => {
      const step = at ? lon - ring[at - 1][0] : 0;
      if (step > 180) shift -= 360;
      else if (step < -180) shift += 360;
      return [lon + shift, lat];
    });
    const [first, last] = [points[0], points[points.length - 1]];
    return Math.abs(last[0] - first[0]) > 180 ? [...points, [last[0], -90], [first[0], -90], first] : points;
  };
  const polygons = shapes.features.flatMap(({ geometry }) => (geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates));
  const rings = polygons.map((polygon) => polygon.map(run));
  const moved = (by) => rings.map((polygon) => polygon.map((ring) => ring.map(([lon, lat]) => [lon + by, lat])));
  return { type: "Feature", properties: {}, geometry: { type: "MultiPolygon", coordinates: [...moved(-360), ...rings, ...moved(360)] } };
}

const landStyle = () => ({ color: color("--coast"), weight: 1, fillColor: color("--land"), fillOpacity: 1 });

function graticule() {
  const lines = [];
  for (let lon = -360; lon <= 360; lon += 30) lines.push([[-85, lon], [85, lon]]);
  for (let lat = -60; lat <= 60; lat += 30) lines.push([[lat, -360], [lat, 360]]);
  return L.polyline(lines, { pane: "land", renderer: ground, interactive: false, color: color("--coast"), weight: 0.5, opacity: 0.6 });
}

function restyle() {
  land?.setStyle(landStyle());
  grid?.setStyle({ color: color("--coast") });
  drawOutlines();
}

function wireFilter() {
  const read = () => {
    query.text = byId("filter-text").value.trim();
    query.begin = day(byId("filter-begin").value, 0);
    query.end = day(byId("filter-end").value, 86399);
    offset = 0;
    refresh();
  };
  const turn = () => list().catch((error) => { byId("map-count").textContent = error.message; });
  let timer = null;
  byId("filter").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(read, 250); });
  byId("filter").addEventListener("submit", (event) => { event.preventDefault(); read(); });
  byId("filter").addEventListener("reset", () => setTimeout(read, 0));
  byId("newer").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); turn(); });
  byId("older").addEventListener("click", () => { offset += PAGE; turn(); });
}

const day = (text, seconds) => (text ? Date.parse(`${text}T00:00:00Z`) / 1000 + seconds : null);

async function refresh() {
  const number = ++asked;
  try {
    // Both at once: neither needs the other's answer.
    const [found] = await Promise.all([get("api/outlines", query), list()]);
    if (number !== asked) return;
    seenVersion = found.version;
    outlines = found.outlines.map((row) => ({ ...row, bounds: L.latLngBounds(row.rings.flat().map(([x, y]) => [y, x])) }));
    leftOut = found.left_out;
    sayCount();
    if (!fitted && outlines.length) {
      fitted = fitting = true;
      fitAll();
      fitting = false;
    }
    drawOutlines();
    drawTiles();
    performance.mark("map drawn");
    sayDrawn();
  } catch (error) {
    sayDrawn();
    fitting = false;
    seenVersion ??= 0;
    byId("map-count").textContent = error.message;
  }
}

function fitAll() {
  const all = outlines.reduce((box, outline) => box.extend(outline.bounds), L.latLngBounds(outlines[0].bounds.getSouthWest(), outlines[0].bounds.getNorthEast()));
  world.fitBounds(all.pad(0.2), { maxZoom: 15, animate: false });
}

// A footprint across the antimeridian runs on beyond 180 degrees; it is drawn on either side of the world.
const crosses = (bounds) => bounds.getEast() > 180 || bounds.getWest() < -180;
const turned = (bounds, by) => L.latLngBounds([bounds.getSouth(), bounds.getWest() + by], [bounds.getNorth(), bounds.getEast() + by]);
const turns = (bounds) => (crosses(bounds) ? [0, bounds.getEast() > 180 ? -360 : 360] : [0]);
const holds = (bounds, place) => turns(bounds).some((by) => turned(bounds, by).contains(place));

const sizeOnScreen = (bounds) => {
  const [a, b] = [world.latLngToContainerPoint(bounds.getSouthWest()), world.latLngToContainerPoint(bounds.getNorthEast())];
  return Math.max(Math.abs(a.x - b.x), Math.abs(a.y - b.y));
};

function drawOutlines() {
  if (!outlineGroup) return;
  outlineGroup.clearLayers();
  for (const outline of [...outlines].reverse()) {
    const isSelected = selected && selected.id === outline.id;
    const style = { color: isSelected ? color("--bad") : color("--accent"), weight: isSelected ? 3 : 1.5, fill: true, fillOpacity: 0.04 };
    const shape = sizeOnScreen(outline.bounds) < DOT_BELOW_PX
      ? L.circleMarker(outline.bounds.getCenter(), { ...style, radius: isSelected ? 8 : 5, fillColor: outline.color, fillOpacity: 0.9 })
      : L.polygon(turns(outline.bounds).flatMap((by) => outline.rings.map((ring) => [ring.map(([x, y]) => [y, x + by])])), style);
    shape.bindTooltip(() => el("span", {}, outline.title));
    shape.on("click", (event) => {
      if (selected && selected.id === outline.id) return;
      if (selected && layers.map && holds(selectedBounds(), event.latlng)) return;
      L.DomEvent.stopPropagation(event);
      select(outline.id);
    });
    outlineGroup.addLayer(shape);
  }
}

// Leaflet folds a tile's place into the world, and then finds it outside bounds that go beyond: such a map has none.
const tileLayer = (kind, id, bounds, pane, opacity = 1, asset = "map") => L.tileLayer(`tiles/${kind}/${encodeURIComponent(id)}/{z}/{x}/{y}.png${asset === "map" ? "" : `?head=${encodeURIComponent(asset)}`}`, {
  pane, bounds: crosses(bounds) ? undefined : bounds, opacity, maxZoom: 22, className: kind === "scene" ? "" : "pixels", errorTileUrl: BLANK, keepBuffer: 1,
});

function drawTiles() {
  if (!world) return;
  const view = world.getBounds();
  const wanted = new Set(outlines
    .filter((outline) => outline.drawn && (!selected || selected.id !== outline.id) && (!other || other.id !== outline.id))
    .filter((outline) => !selected && turns(outline.bounds).some((by) => view.intersects(turned(outline.bounds, by))) && sizeOnScreen(outline.bounds) >= TILED_FROM_PX)
    .slice(0, MOST_TILED).map((outline) => outline.id));
  for (const [id, layer] of tiled) if (!wanted.has(id)) { layer.remove(); tiled.delete(id); }
  for (const outline of [...outlines].reverse()) {
    if (wanted.has(outline.id) && !tiled.has(outline.id)) tiled.set(outline.id, tileLayer("map", outline.id, outline.bounds, "tiles").addTo(world));
  }
}

function sayCount() {
  const drawn = leftOut ? `; the map draws the newest ${format.number(outlines.length)}` : "";
  byId("map-count").textContent = listed ? `${format.count(listed, "map")} with a place${drawn}` : "";
}

async function list() {
  const number = ++askedList;
  const found = await get("api/maps", { ...query, located: true, offset, limit: PAGE });
  if (number !== askedList) return;
  listed = found.count;
  sayCount();
  fill(byId("map-list"), ...found.maps.map((row) => el("li", {}, el("button", { type: "button", "data-map": row.id, click: () => select(row.id, true) },
    row.has_quicklook ? el("img", { class: "thumb", src: `api/maps/${encodeURIComponent(row.id)}/quicklook`, alt: "", loading: "lazy" }) : el("span", { class: "thumb" }),
    el("span", {}, el("span", { class: "title" }, row.title),
      el("span", { class: "soft" }, [format.time(row.time_s), row.area_m2 === null ? null : format.area(row.area_m2), row.bytes ? format.bytes(row.bytes) : null, row.state === "whole" ? null : row.state].filter(Boolean).join(" · "), guess(row)))))));
  if (!found.count && !query.text && query.begin === null && query.end === null) {
    fill(byId("map-list"), el("li", {}, empty("No map with a place has come yet. `ground pull` brings them.")));
  } else if (!found.count) {
    fill(byId("map-list"), el("li", {}, empty("No map fits what is asked for.")));
  }
  byId("newer").hidden = offset === 0;
  byId("older").hidden = offset + PAGE >= listed;
}

export async function select(id, move = false) {
  let detail;
  try {
    detail = await get(`api/maps/${encodeURIComponent(id)}`);
  } catch (error) {
    byId("map-count").textContent = error.message;
    return;
  }
  unselect();
  selected = detail;
  [head] = detail.heads;
  kind = "map";
  show(detail);
  const bounds = selectedBounds();
  if (detail.has_scene && head.drawn) layers.scene = tileLayer("scene", id, bounds, "scene").addTo(world);
  drawSelected();
  drawOutlines();
  if (move || sizeOnScreen(bounds) < 150) world.fitBounds(bounds.pad(0.15), { maxZoom: 18, animate: false });
  drawTiles();
  clip();
}

const selectedBounds = () => L.latLngBounds([selected.bounds[1], selected.bounds[0]], [selected.bounds[3], selected.bounds[2]]);

function unselect() {
  for (const layer of Object.values(layers)) layer.remove();
  layers = {};
  selected = other = null;
  world.closePopup();
}

function back() {
  const id = selected ? selected.id : null;
  unselect();
  byId("map-detail").hidden = true;
  byId("map-list-panel").hidden = false;
  drawOutlines();
  drawTiles();
  clip();
  document.querySelector(`[data-map="${CSS.escape(id || "")}"]`)?.focus();
}

function range(name, value, take) {
  return el("label", { class: "control" }, el("span", {}, name),
    el("input", { type: "range", min: 0, max: 100, value, input: (event) => take(event.target.value / 100) }));
}

function choice(name, id, options, take) {
  return el("label", { class: "control" }, el("span", {}, name), el("select", { id, change: (event) => take(event.target.value) }, ...options));
}

function show(detail) {
  const controls = el("div", {});
  const heading = el("h3", { class: "detail-title", tabindex: "-1" }, detail.title);
  if (detail.heads.length > 1) {
    controls.append(choice("Head", "head", detail.heads.map((row) => el("option", { value: row.asset, disabled: !row.drawn && row !== head }, row.drawn ? row.name : `${row.name} (has not come yet)`)), setHead));
  }
  controls.append(choice("Layer", "layer", [el("option", { value: "map" }, "classes"), el("option", { value: "confidence" }, "confidence")], (value) => { kind = value; drawSelected(); }));
  controls.append(range("Map", 100, (value) => layers.map?.setOpacity(value)));
  if (detail.has_scene) controls.append(range("Scene", 100, (value) => layers.scene?.setOpacity(value)));
  if (detail.overlapping.length) controls.append(choice("Compare", "compare", [], compare));
  fill(byId("map-detail"),
    el("button", { type: "button", class: "quiet", click: back }, "‹ All maps"), heading, controls,
    el("p", { id: "clicked", class: "soft", role: "status" }, "Click into the map for the class at a place."),
    doubts(detail), el("div", { id: "of-head" }));
  showHead();
  byId("map-list-panel").hidden = true;
  byId("map-detail").hidden = false;
  heading.focus({ preventScroll: true });
}

/** What the panel says of the head that is shown. */
function showHead() {
  fill(byId("of-head"), legend(head, selected.heads.length > 1), facts(selected, head));
  byId("layer").value = kind;
  byId("layer").closest("label").hidden = !head.has_confidence;
  if (!selected.overlapping.length) return;
  fill(byId("compare"), el("option", { value: "" }, "with nothing"), ...selected.overlapping.map((row) => {
    const words = `${format.time(row.time_s)}: ${row.title}`, asset = sameHead(row);
    return el("option", { value: row.id, disabled: asset === null }, asset === null ? `${words} (no head ${head.name})` : words);
  }));
  byId("compare").value = other ? other.id : "";
}

/** The asset of another map that shows what the head shows: by its name, and of a map's first head also the other's first. */
function sameHead(row) {
  const same = row.drawn_heads.find(([name]) => name === head.name) || (head.asset === "map" ? row.drawn_heads.find(([, asset]) => asset === "map") : null);
  return same ? same[1] : null;
}

function setHead(asset) {
  head = selected.heads.find((row) => row.asset === asset);
  if (!head.has_confidence) kind = "map";
  if (other && sameHead(other) === null) other = null;
  showHead();
  drawSelected();
  compare(other ? other.id : "");
  world.closePopup();
}

function drawSelected() {
  const opacity = layers.map ? layers.map.options.opacity : 1;
  layers.map?.remove();
  delete layers.map;
  if (head.drawn) layers.map = tileLayer(kind, selected.id, selectedBounds(), "before", opacity, head.asset).addTo(world);
}

function compare(id) {
  layers.after?.remove();
  delete layers.after;
  other = selected.overlapping.find((row) => row.id === id) || null;
  if (other) {
    const [west, south, east, north] = other.bounds;
    layers.after = tileLayer("map", other.id, L.latLngBounds([south, west], [north, east]), "after", 1, sameHead(other)).addTo(world);
  }
  clip();
}

/** The older of two maps lies left of the line, the newer right of it. */
function clip() {
  const swipe = byId("swipe");
  swipe.hidden = !other;
  const panes = [world.getPane("before"), world.getPane("after")];
  if (!other) {
    for (const pane of panes) pane.style.clipPath = "";
    return;
  }
  const part = swipe.querySelector("input").value / 100, size = world.getSize();
  const corner = world.containerPointToLayerPoint([0, 0]);
  const x = corner.x + part * size.x, far = 1e5;
  const left = `polygon(${-far}px ${-far}px, ${x}px ${-far}px, ${x}px ${far}px, ${-far}px ${far}px)`;
  const right = `polygon(${x}px ${-far}px, ${far}px ${-far}px, ${far}px ${far}px, ${x}px ${far}px)`;
  const selectedIsOlder = (selected.time_s || 0) <= (other.time_s || 0);
  panes[0].style.clipPath = selectedIsOlder ? left : right;
  panes[1].style.clipPath = selectedIsOlder ? right : left;
  swipe.querySelector(".line").style.left = `${100 * part}%`;
  const [older, newer] = selectedIsOlder ? [selected, other] : [other, selected];
  swipe.querySelector(".left").textContent = `Before: ${format.time(older.time_s)}`;
  swipe.querySelector(".right").textContent = `After: ${format.time(newer.time_s)}`;
}

async function click(event) {
  if (!selected) return;
  const place = event.latlng.wrap();
  const lines = [];
  for (const shown of other ? [selected, other] : [selected]) {
    try {
      const found = await get(`api/maps/${encodeURIComponent(shown.id)}/pixel`, { lon: place.lng, lat: place.lat, head: shown === selected ? head.asset : sameHead(shown) });
      const sure = found.confidence === null ? "" : `, confidence ${format.share(found.confidence)}`;
      const name = found.value === null ? "beside the map" : found.value === 0 ? "no data" : (found.title || `class ${found.value}`) + sure;
      lines.push([found.color, other ? `${format.time(shown.time_s)}: ${name}` : name]);
    } catch (error) {
      lines.push([null, error.message]);
    }
  }
  const where = `${Math.abs(place.lat).toFixed(5)}° ${place.lat < 0 ? "S" : "N"}, ${Math.abs(place.lng).toFixed(5)}° ${place.lng < 0 ? "W" : "E"}`;
  const make = () => el("div", {}, ...lines.map(([tint, text]) => el("div", {}, tint ? swatch(tint) : null, text)), el("div", { class: "soft" }, where));
  L.popup({ autoPan: false }).setLatLng(event.latlng).setContent(make()).openOn(world);
  fill(byId("clicked"), ...make().childNodes);
}
