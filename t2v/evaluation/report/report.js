"use strict";
// One clock for all videos: those in view follow it, whenever they were loaded.
const films = [...document.querySelectorAll("video")];
const button = document.getElementById("play");
const DRIFT = 0.06; // seconds a film may be off
let started = performance.now();
let stopped = null; // the clock's time while it stands
function now() {
  const longest = Math.max(0.1, ...films.map((film) => film.duration || 0));
  return (stopped === null ? (performance.now() - started) / 1000 : stopped) % longest;
}
function step(film) {
  if (film.readyState < 1) return;
  const time = Math.min(now(), film.duration - 0.001);
  if (Math.abs(film.currentTime - time) > DRIFT && !film.seeking) film.currentTime = time;
  if (stopped !== null) film.pause();
  else if (film.paused && time < film.duration - DRIFT) film.play().catch(() => {});
}
const visible = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) visible.add(target);
    else { visible.delete(target); target.pause(); }
  }
});
for (const film of films) watcher.observe(film);
setInterval(() => { for (const film of visible) step(film); }, 100);
button.addEventListener("click", () => {
  if (stopped === null) stopped = now();
  else { started = performance.now() - stopped * 1000; stopped = null; }
  button.textContent = stopped === null ? "pause" : "play";
});
for (const heading of document.querySelectorAll("th[data-sort]")) {
  heading.tabIndex = 0;
  heading.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    heading.click();
  });
  heading.addEventListener("click", () => {
    const column = [...heading.parentNode.children].indexOf(heading);
    const body = heading.closest("table").tBodies[0];
    const upwards = heading.dataset.sort !== "up";
    for (const other of heading.parentNode.querySelectorAll("[data-sort]")) {
      other.dataset.sort = "";
      other.removeAttribute("aria-sort");
    }
    heading.dataset.sort = upwards ? "up" : "down";
    heading.setAttribute("aria-sort", upwards ? "ascending" : "descending");
    const text = (row) => row.children[column].textContent.trim();
    const rows = [...body.rows].sort((a, b) => {
      const x = text(a), y = text(b);
      if (!x || !y) return !x - !y; // unknown values stay at the bottom
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return upwards ? order : -order;
    });
    body.append(...rows);
  });
}
