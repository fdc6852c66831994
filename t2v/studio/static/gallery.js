// The gallery: films play where one looks, several are selected, and what is deleted can come back.
import { ask, attempt, element, say } from "./api.js";
import { remove } from "./removal.js";
import { localTimes } from "./times.js";

const LOOK = 3000; // milliseconds between two looks for new videos

localTimes();
const list = document.getElementById("films");
const quiet = matchMedia("(prefers-reduced-motion: reduce)");
const isTouched = matchMedia("(hover: none)");
const cards = () => [...list.querySelectorAll(".film:not(.leaving)")];
const posterOf = (card) => card.querySelector(".poster");
const boxOf = (card) => card.querySelector("[name=ids]");
const chosen = () => cards().filter((card) => boxOf(card)?.checked);

// --- films -----------------------------------------------------------------------------------

function play(poster) {
  if (!poster.dataset.film || poster.querySelector("video")) return;
  const film = element("video", { src: poster.dataset.film, loop: true, playsinline: true });
  film.muted = true;
  poster.append(film);
  film.play().catch(() => film.remove()); // left before it began, or it cannot be read
}

function rest(poster) {
  poster.querySelector("video")?.remove();
}

function watch(card) {
  const poster = posterOf(card);
  for (const [begin, end] of [["pointerenter", "pointerleave"], ["focus", "blur"]]) {
    poster.addEventListener(begin, (event) => {
      if (event.pointerType !== "touch" && !quiet.matches && !isTouched.matches) play(poster);
    });
    poster.addEventListener(end, (event) => {
      if (event.pointerType !== "touch") rest(poster);
    });
  }
  poster.addEventListener("click", (event) => {
    if (!isTouched.matches || !poster.dataset.film || poster.querySelector("video")) return;
    event.preventDefault(); // the first tap plays it, the second opens it
    for (const other of list.querySelectorAll(".poster")) rest(other);
    play(poster);
  });
}

// --- selection -------------------------------------------------------------------------------

const bar = document.getElementById("bar");
let last = null; // the card that was selected last, where a range begins

function showChosen() {
  if (!bar) return;
  const count = chosen().length;
  bar.hidden = count === 0;
  list.classList.toggle("picking", count > 0);
  for (const card of cards()) card.classList.toggle("picked", boxOf(card).checked);
  const compared = count > 4 ? "; two to four are compared" : "";
  document.getElementById("count").textContent = `${count} selected${compared}`;
  bar.querySelector("[name=compare]").disabled = count < 2 || count > 4;
}

function pick(card, isOn, isRange = false) {
  const all = cards();
  const ends = [all.indexOf(last), all.indexOf(card)].sort((a, b) => a - b);
  const several = isRange && last && ends[0] >= 0 ? all.slice(ends[0], ends[1] + 1) : [card];
  for (const each of several) boxOf(each).checked = isOn;
  last = card;
  showChosen();
}

async function star(card) {
  const button = card.querySelector(".star");
  const isOn = button.getAttribute("aria-pressed") !== "true";
  const told = await attempt(() => ask(isOn ? "PUT" : "DELETE", `/videos/${card.dataset.id}/star`));
  if (told) button.setAttribute("aria-pressed", String(told.is_starred));
}

// --- deletion --------------------------------------------------------------------------------

function drop(several) {
  if (!several.length) return;
  const next = cards().find((card) => !several.includes(card));
  const hide = (isAway) => {
    for (const card of several) card.classList.toggle("leaving", isAway);
    showChosen();
  };
  remove(several.map((card) => card.dataset.id), {
    hide: () => {
      for (const card of several) {
        boxOf(card).checked = false;
        rest(posterOf(card));
      }
      hide(true);
      if (next) posterOf(next).focus();
    },
    restore: () => {
      hide(false);
      posterOf(several[0]).focus();
    },
    gone: () => {
      for (const card of several) card.remove();
      if (!cards().length) location.reload();
    },
  });
}

// --- keys ------------------------------------------------------------------------------------

function beside(card, key) {
  const all = cards();
  const index = all.indexOf(card);
  const columns = all.findIndex((each) => each.offsetTop > all[0].offsetTop);
  const row = columns < 0 ? all.length : columns;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[key];
  return all[index + step];
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=checkbox]), textarea")) return;
  const card = event.target.closest?.(".film");
  const { key } = event;
  if (key === "/") document.getElementById("q").focus();
  else if (key === "Escape" && bar) {
    for (const each of chosen()) boxOf(each).checked = false;
    showChosen();
  } else if (key === "Delete" && bar) drop(chosen().length ? chosen() : card ? [card] : []);
  else if (key.startsWith("Arrow")) {
    const next = card ? beside(card, key) : cards()[0];
    if (!next || (!card && key !== "ArrowRight")) return;
    posterOf(next).focus();
  } else if (key === "x" && card && bar) pick(card, !boxOf(card).checked);
  else if (key === "s" && card && bar) star(card);
  else return;
  event.preventDefault();
}

// --- what is new -----------------------------------------------------------------------------

const hint = document.getElementById("new");
let wasAway = false;

async function look() {
  if (document.hidden) return;
  try {
    const { newest } = await ask("GET", "/gallery/newest");
    if (wasAway) say("");
    wasAway = false;
    hint.hidden = newest === hint.dataset.newest;
    if (!list && !hint.hidden) location.reload();
  } catch (error) {
    wasAway = true;
    say(error.message, true);
  }
}
setInterval(look, LOOK);
look();

if (list) {
  cards().forEach(watch);
  document.addEventListener("keydown", onKey);
  showChosen();
  list.addEventListener("click", (event) => {
    const card = event.target.closest(".film");
    if (event.target.matches("[name=ids]")) pick(card, event.target.checked, event.shiftKey);
    if (event.target.closest(".star")) star(card);
  });
  bar?.querySelector("[name=delete]").addEventListener("click", () => drop(chosen()));
  bar?.querySelector("[name=clear]").addEventListener("click", () => {
    for (const card of chosen()) boxOf(card).checked = false;
    showChosen();
  });
}
