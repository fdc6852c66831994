"use strict";
const films = [...document.querySelectorAll("video")];
const button = document.getElementById("play");
let playing = true;
function restart() {
  for (const film of films) { film.currentTime = 0; if (playing) film.play(); }
}
// the longest film leads; when it ends all begin again together
let ready = 0;
for (const film of films) film.addEventListener("loadeddata", () => {
  if (++ready < films.length) return;
  const leader = films.reduce((a, b) => (b.duration > a.duration ? b : a));
  leader.addEventListener("ended", restart);
  restart();
});
button.addEventListener("click", () => {
  playing = !playing;
  button.textContent = playing ? "pause" : "play";
  for (const film of films) playing ? film.play() : film.pause();
});
for (const heading of document.querySelectorAll("th[data-sort]")) {
  heading.addEventListener("click", () => {
    const column = [...heading.parentNode.children].indexOf(heading);
    const body = heading.closest("table").tBodies[0];
    const upwards = heading.dataset.sort !== "up";
    heading.dataset.sort = upwards ? "up" : "down";
    const text = (row) => row.children[column].textContent.trim();
    const rows = [...body.rows].sort((a, b) => {
      const x = text(a), y = text(b);
      const order = isNaN(x) || isNaN(y) || !x || !y ? x.localeCompare(y) : x - y;
      return upwards ? order : -order;
    });
    body.append(...rows);
  });
}
