// The queue: what waits, moved, edited and cancelled in its place; and what was not made, and why.

import { ask, attempt, element, plain, say } from "./api.js";
import { editor } from "./make_edit.js";
import { keepEdit, keptEdit } from "./make_kept.js";
import { about, again, asks, at } from "./make_words.js";
import { keep } from "./make_rows.js";

const FAILED = 12;
const place = (id) => document.getElementById(id);
let dragged = null;

// what is typed for a video that does not wait any more has no row after a reload
addEventListener("beforeunload", (event) => {
  if (document.querySelector(".gone .edit") !== null) event.preventDefault();
});

export function tellQueued(videos) {
  keep(place("queued"), videos, buildWaiting);
  place("queue-none").hidden = place("queued").children.length > 0;
}

export function tellWaiting(count) {
  const more = count - place("queued").children.length;
  place("queued-more").hidden = more <= 0;
  place("queued-more").textContent = `and ${more} more`;
  place("queue-head").textContent = count ? `Queue (${count})` : "Queue";
}

export function tellFailed(videos) {
  keep(place("failed"), videos.slice(0, FAILED), buildFailed);
  place("failed-head").hidden = place("failed").children.length === 0;
}

function buildWaiting(first) {
  let video = first;
  const move = (position) => attempt(() => ask("POST", at(video, "/move"), { position }));
  const up = small("↑", "Earlier", () => video.position > 1 && move(video.position - 1));
  const down = small("↓", "Later", () => move(video.position + 1));
  const handle = element("span", { class: "handle", "aria-hidden": "true", title: "Drag" }, "⠿");
  const copy = asks("Duplicate", {}, () => again(video), "It waits once more.");
  const cancel = asks("Cancel", {}, () => ask("POST", at(video, "/cancel")));
  const order = element("div", { class: "order" }, up, handle, down);
  const row = buildRow([copy, cancel], {
    label: "Save",
    save: (values) => ask("PATCH", at(video), values),
  });
  row.classList.add("waits");
  row.prepend(order);
  handle.draggable = true;
  handle.addEventListener("dragstart", (event) => {
    dragged = row;
    event.dataTransfer.setData("text/plain", video.prompt);
    event.dataTransfer.setDragImage(row, 0, 0);
  });
  handle.addEventListener("dragend", () => (dragged = null));
  row.addEventListener("dragover", (event) => {
    if (dragged === null) return;
    event.preventDefault();
    row.classList.add("over");
  });
  row.addEventListener("dragleave", () => row.classList.remove("over"));
  row.addEventListener("drop", (event) => {
    row.classList.remove("over");
    if (dragged === null || dragged === row) return;
    event.preventDefault();
    attempt(() => ask("POST", at({ id: dragged.dataset.id }, "/move"), { position: video.position }));
  });
  const tell = row.update;
  row.update = (told) => {
    video = told;
    tell(video);
    up.setAttribute("aria-disabled", String(video.position === 1)); // `disabled` would lose the focus
  };
  return row;
}

function buildFailed(first) {
  const why = element("p", { class: "why", dir: "auto" });
  const retry = asks("Retry", {}, () => ask("POST", at(first, "/retry"), {}), "It waits again.");
  const remove = asks("Remove", {}, () => ask("DELETE", at(first)));
  const row = buildRow([retry, remove], {
    label: "Save and retry",
    save: (values) => ask("POST", at(first, "/retry"), values),
  });
  row.querySelector(".quiet").after(why);
  const tell = row.update;
  row.update = (video) => {
    tell(video);
    const isWrong = video.error?.code !== "cancelled";
    why.classList.toggle("wrong", isWrong);
    why.textContent = isWrong ? plain(video.error?.message) : "Cancelled";
  };
  return row;
}

// A row with its prompt, what it is, and buttons; "Edit" opens its settings in their place.
function buildRow(others, { label, save }) {
  let video = null, form = null;
  const prompt = element("p", { class: "prompt", dir: "auto" });
  const words = element("p", { class: "quiet" });
  const edit = element("button", { type: "button", "aria-expanded": "false" }, "Edit");
  const buttons = element("p", { class: "row tight" }, edit, ...others);
  const body = element("div", {}, prompt, words, buttons);
  const row = element("li", {}, body);

  function close() {
    keepEdit(video.id, null);
    form.remove();
    form = null;
    edit.setAttribute("aria-expanded", "false");
    if (row.isConnected && !row.classList.contains("gone")) edit.focus();
    else row.remove();
  }

  function open() {
    form = editor(video, label, async (values) => {
      const isGone = row.classList.contains("gone");
      await (isGone ? again(video, values) : save(values));
      say(isGone ? "Another one waits." : "It is changed.");
      close();
    }, close);
    body.append(form);
    edit.setAttribute("aria-expanded", "true");
  }

  edit.addEventListener("click", () => {
    if (form !== null) return close();
    open();
    form.begin();
  });
  row.update = (told) => {
    const isNew = video === null;
    video = told;
    if (isNew && keptEdit(video.id) !== null) open(); // it was open before the page was left
    prompt.textContent = video.prompt;
    words.textContent = about(video);
  };
  // what is typed outlives the video that it was typed for
  row.stays = () => {
    if (form === null) return false;
    row.classList.add("gone");
    buttons.hidden = true;
    form.tellGone();
    return true;
  };
  return row;
}

function small(sign, label, doing) {
  const button = element("button", { type: "button", class: "small", "aria-label": label, title: label }, sign);
  button.addEventListener("click", doing);
  return button;
}
