// Scenes that wait aboard, and what an operator may do: cancel one, or change the turn of one that waits.
import { post } from "./api.js";
import { byId, el, empty, fill, table } from "./dom.js";
import * as format from "./format.js";

const PRIORITIES = [["urgent", "before all others"], ["high", "before routine"], ["routine", "in the order of arrival"]];
let said = "", drawn = "";

export function open(state) {
  said = drawn = "";
  if (state) live(state, true);
}

export function live(state, isShown) {
  if (!isShown) return;
  const text = JSON.stringify([state.link, state.problem, state.scenes, state.may_act, state.refused, state.ready, said]);
  if (text === drawn) return;
  drawn = text;
  if (state.link !== "up") {
    byId("queue-note").textContent = said;
    fill(byId("queue"), empty(state.link === "off" ? "The queue is aboard: start with the satellite's address." : state.link === "down" ? `No contact: ${state.problem}` : "Calling the satellite …"));
    return;
  }
  const refused = state.refused.join("; ");
  const ready = state.ready && state.ready.status !== "ready" ? `The service is ${state.ready.status}: ${state.ready.problems.join("; ")}. ` : "";
  byId("queue-note").textContent = said || ready + (refused || (state.may_act ? "" : "Cancelling, or another priority, needs the operator's token: start with --operator-token-file."));
  const rows = state.scenes.map((scene) => ({
    cells: [
      el("span", { class: `state-${scene.state}` }, scene.state), el("span", { class: `priority-${scene.priority}` }, scene.priority), scene.name, format.bytes(scene.bytes),
      scene.state === "running" && scene.tiles ? [el("progress", { max: scene.tiles, value: scene.tiles_done || 0, "aria-label": `Progress of ${scene.name}` }), ` ${scene.tiles_done || 0} of ${scene.tiles} tiles`] : "",
      scene.problem || scene.waiting_reason || "",
      state.may_act ? actions(scene) : "",
    ],
  }));
  const focused = byId("queue").contains(document.activeElement) ? document.activeElement.dataset.key : null;
  fill(byId("queue"), rows.length ? table("In the order in which the satellite takes them", [["State", "short"], ["Priority", "short"], ["Scene"], ["Size", "number"], ["Progress"], ["Note"], ["", "short"]], rows) : empty("Nothing waits aboard."),
    state.scenes_count > rows.length ? el("p", { class: "soft" }, `and ${format.number(state.scenes_count - rows.length)} more`) : null);
  // The rows are drawn anew with each tile that is mapped: who works with the keyboard stays where they are.
  if (focused) focus(focused);
}

function actions(scene) {
  const button = (name, kind, click) => el("button", { type: "button", class: kind, "data-key": `${name} ${scene.id}`, "aria-label": `${name} ${name === "Priority" ? "of " : ""}${scene.name}`, click }, name);
  return el("span", { class: "actions" },
    scene.state === "queued" ? button("Priority", "quiet", () => turn(scene)) : null,
    ["queued", "running"].includes(scene.state) ? button("Cancel", "danger", () => confirm(scene)) : null);
}

/** To a button of the table, or where its row has gone to the line that says so. */
function focus(key) {
  (byId("queue").querySelector(`[data-key="${CSS.escape(key)}"]`) || byId("queue-note")).focus();
}

function turn(scene) {
  const dialog = byId("confirm");
  const radios = PRIORITIES.map(([name, words]) => el("label", { class: "choice" },
    el("input", { type: "radio", name: "priority", value: name, checked: name === scene.priority, autofocus: name === scene.priority }), el("span", {}, name, " ", el("span", { class: "soft" }, words))));
  const form = el("form", { method: "dialog", submit: () => change(scene, new FormData(form).get("priority")) },
    el("fieldset", {}, el("legend", {}, "It waits as ", el("strong", {}, scene.priority), "; from now on as"), ...radios),
    el("p", { class: "pager" }, el("button", { type: "submit", id: "turn-set" }, "Set the priority"),
      el("button", { type: "button", class: "quiet", click: () => dialog.close() }, "Leave it")));
  fill(dialog, el("h3", { id: "confirm-title", class: "detail-title" }, `Priority of ${scene.name}`), form);
  show(dialog, `Priority ${scene.id}`);
}

function show(dialog, key) {
  dialog.onclose = () => focus(key);
  dialog.showModal();
}

async function change(scene, priority) {
  if (!priority || priority === scene.priority) return;
  try {
    await post(`api/scenes/${encodeURIComponent(scene.id)}/priority`, { priority });
    say(`${scene.name} waits as ${priority} now.`);
  } catch (error) {
    say(`${scene.name} keeps its priority: ${error.message}`);
  }
}

function say(text) {
  said = text;
  byId("queue-note").textContent = said;
  drawn = "";
}

function confirm(scene) {
  const dialog = byId("confirm");
  fill(dialog,
    el("h3", { id: "confirm-title", class: "detail-title" }, `Cancel ${scene.name}?`),
    el("p", {}, "Its file, and what is mapped of it, are erased aboard."),
    el("p", { class: "pager" },
      el("button", { type: "button", class: "danger", id: "confirm-yes", click: () => { dialog.close(); cancel(scene); } }, "Cancel the scene"),
      el("button", { type: "button", class: "quiet", click: () => dialog.close() }, "Keep it")));
  show(dialog, `Cancel ${scene.id}`);
}

async function cancel(scene) {
  try {
    await post(`api/scenes/${encodeURIComponent(scene.id)}/cancel`);
    say(`${scene.name} is cancelled.`);
  } catch (error) {
    say(`${scene.name} is not cancelled: ${error.message}`);
  }
}
