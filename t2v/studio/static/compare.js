// Films in step: one clock, which waits for all of them, and each is kept within a frame of it.
import { say } from "./api.js";
import "./away.js";

const place = (id) => document.getElementById(id);
const stage = place("films");
const films = [...stage.querySelectorAll("video")];
const fps = Math.max(...films.map((film) => Number(film.dataset.fps)));
const frame = 1 / fps;
let time = 0; // seconds, of the clock
let before = 0; // milliseconds, when it was last looked at
let isPlaying = false;
let speed = 1;
let count = 1; // frames of the longest film

const end = (film) => Math.max(0, film.duration - frame / 2);
const isReady = (film) => film.readyState >= 2 && !film.seeking;

function seek(to) {
  time = Math.min(Math.max(0, to), count / fps);
  for (const film of films) {
    film.pause();
    film.currentTime = Math.min(time, end(film));
  }
  tell();
}

// One look at the clock: it goes on when every film is there, and films follow it.
function follow(now) {
  requestAnimationFrame(follow);
  const passed = Math.min(0.25, (now - before) / 1000) * speed;
  before = now;
  if (!isPlaying || !films.every(isReady)) return;
  time += passed;
  if (time >= count / fps) {
    seek(0);
    return;
  }
  for (const film of films) keep(film);
  tell();
}

function keep(film) {
  if (time >= end(film)) {
    if (!film.paused) film.pause(); // it waits on its last frame for the longer ones
    return;
  }
  if (film.paused) film.play().catch(() => {});
  const ahead = film.currentTime - time;
  if (Math.abs(ahead) > Math.max(3 * frame, 0.2)) film.currentTime = time;
  else {
    const much = Math.abs(ahead) > frame / 5 ? Math.max(-0.5, Math.min(0.5, 4 * ahead)) : 0;
    const rate = Math.max(0.0625, speed * (1 - much));
    if (film.playbackRate !== rate) film.playbackRate = rate;
  }
}

function tell() {
  const number = Math.min(count - 1, Math.floor(time * fps + 1e-4));
  place("scrub").value = number;
  place("clock").textContent = `frame ${number + 1} of ${count}, ${time.toFixed(2)} s`;
}

function play(isOn) {
  isPlaying = isOn;
  place("play").textContent = isOn ? "Pause" : "Play";
  if (!isOn) seek((Math.floor(time * fps + 1e-4) + 0.5) * frame);
}

function step(by) {
  const number = Math.min(count - 1, Math.max(0, Math.floor(time * fps + 1e-4) + by));
  time = (number + 0.5) * frame;
  play(false);
}

place("play").addEventListener("click", () => play(!isPlaying));
place("back").addEventListener("click", () => step(-1));
place("on").addEventListener("click", () => step(1));
place("scrub").addEventListener("input", ({ target }) => seek((Number(target.value) + 0.5) * frame));
place("speed").addEventListener("change", ({ target }) => {
  speed = Number(target.value);
});

// --- wipe --------------------------------------------------------------------------------------

const wipe = place("wipe");

function cut(percent) {
  place("place").value = percent;
  stage.style.setProperty("--place", `${percent}%`);
}

function showWipe() {
  stage.classList.toggle("wiping", wipe.checked);
  place("edge").hidden = !wipe.checked;
  const address = new URL(location.href);
  if (wipe.checked) address.searchParams.set("wipe", "");
  else address.searchParams.delete("wipe");
  history.replaceState(null, "", address);
  cut(place("place").value);
}

if (wipe) {
  wipe.checked = new URLSearchParams(location.search).has("wipe");
  wipe.addEventListener("change", showWipe);
  place("place").addEventListener("input", ({ target }) => cut(target.value));
  const drag = (event) => {
    if (!wipe.checked || (event.type === "pointermove" && !event.buttons && event.pointerType === "mouse")) return;
    const box = stage.getBoundingClientRect();
    cut(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
  };
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  showWipe();
}

// --- keys and start ----------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
  const isButton = event.target.closest("button, a");
  if (event.key === " " && !isButton) play(!isPlaying);
  else if (event.key === ",") step(-1);
  else if (event.key === ".") step(1);
  else if (event.key === "Home" && event.target.type !== "range") seek(0);
  else if (event.key === "w" && wipe) {
    wipe.checked = !wipe.checked;
    showWipe();
  } else return;
  event.preventDefault();
});

const known = (film) =>
  new Promise((done, failed) => {
    const refuse = () => failed(new Error("One of these films cannot be played here."));
    film.addEventListener("error", refuse);
    if (film.error) refuse();
    else if (film.readyState >= 1) done();
    else film.addEventListener("loadedmetadata", done, { once: true });
  });

Promise.all(films.map(known))
  .then(() => {
    count = Math.max(1, ...films.map((film) => Math.round(film.duration * fps)));
    place("scrub").max = count - 1;
    seek(0);
    play(!matchMedia("(prefers-reduced-motion: reduce)").matches);
    requestAnimationFrame(follow);
  })
  .catch((error) => say(error.message, true));
