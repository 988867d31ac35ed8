// Elements of text only: nothing here reads markup, so text of the satellite's stays text.

/** Makes an element: el("p", {class: "soft"}, "text", child). Functions are listeners, true/false/null are as in HTML. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name === "color") node.style.background = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Replaces what an element holds. */
export function fill(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

/** A table whose cells carry their column's name, so that narrow screens show them as cards. */
export function table(caption, columns, rows, options = {}) {
  const head = el("tr", {}, ...columns.map(([name, kind]) => el("th", { scope: "col", class: kind || null }, name)));
  const body = rows.map((row) => el("tr", { class: row.class || null },
    ...columns.map(([name, kind], at) => el("td", { class: kind || null, "data-label": name || null },
      ...[row.cells[at]].flat().filter((cell) => cell !== null && cell !== undefined && cell !== "")))));
  return el("table", { class: options.class || "cards" }, caption ? el("caption", {}, caption) : null,
    el("thead", {}, head), el("tbody", {}, ...body));
}

export const empty = (text) => el("p", { class: "empty" }, text);
export const swatch = (color) => el("span", { class: "swatch", color, "aria-hidden": "true" });
/** A word at a map that is a guess. */
export const guess = (row) => (row.guess ? el("span", { class: "guess-word" }, "guess") : null);
export const tile = (figure, label) => el("div", { class: "tile" }, el("div", { class: "figure" }, figure), el("div", { class: "label" }, label));
/** A colour of the theme. */
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
