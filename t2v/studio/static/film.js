// One video: the film, frame by frame, and what can be made of it.
import { ask, attempt, element, say } from "./api.js";
import "./away.js";
import { remove } from "./removal.js";
import { localTimes } from "./times.js";

const LOOK = 1000; // milliseconds between two looks at what is being made

localTimes();
const one = document.getElementById("one");
const film = document.getElementById("film");
const { id } = one.dataset;
const fps = Number(one.dataset.fps);

// The middle of the frame that is so many behind the one shown.
function step(frames) {
  if (!film) return;
  film.pause();
  const last = Math.max(0, Math.round(film.duration * fps) - 1);
  const frame = Math.min(last, Math.max(0, Math.floor(film.currentTime * fps + 1e-4) + frames));
  film.currentTime = (frame + 0.5) / fps;
}

if (film) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) film.autoplay = false;
  document.getElementById("back").addEventListener("click", () => step(-1));
  document.getElementById("on").addEventListener("click", () => step(1));
  document.getElementById("speed").addEventListener("change", ({ target }) => {
    film.playbackRate = Number(target.value);
  });
  const refuse = () => say("The browser cannot play this file; it can be downloaded.", true);
  film.addEventListener("error", refuse);
  if (film.error) refuse(); // it was known before this ran
  const marks = [...document.querySelectorAll("[data-begins]")];
  for (const mark of marks) {
    mark.addEventListener("click", () => {
      film.currentTime = Number(mark.dataset.begins) + 0.25 / fps;
    });
  }
  film.addEventListener("timeupdate", () => {
    const here = marks.findLast((mark) => Number(mark.dataset.begins) <= film.currentTime);
    for (const mark of marks) mark.setAttribute("aria-current", String(mark === here));
  });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.target.closest("input, select, textarea, video")) {
    if (!event.target.matches("video") || !",.".includes(event.key)) return;
  }
  const keys = {
    ",": () => step(-1),
    ".": () => step(1),
    ArrowLeft: () => document.getElementById("newer")?.click(),
    ArrowRight: () => document.getElementById("older")?.click(),
  };
  if (event.key === " " && film && !event.target.closest("button, a, summary")) {
    film.paused ? film.play() : film.pause();
  } else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});

const star = document.getElementById("star");
star.addEventListener("click", async () => {
  const isOn = star.getAttribute("aria-pressed") !== "true";
  const told = await attempt(() => ask(isOn ? "PUT" : "DELETE", `/videos/${id}/star`));
  if (told) star.setAttribute("aria-pressed", String(told.is_starred));
});

document.getElementById("delete").addEventListener("click", () => {
  const next = document.getElementById("older") ?? document.getElementById("newer");
  remove([id], {
    hide: () => one.classList.add("leaving"),
    restore: () => one.classList.remove("leaving"),
    gone: () => location.replace(next?.href ?? "/gallery"),
  });
});

// --- what is made from it ----------------------------------------------------------------------

const made = document.getElementById("made");
const open = new Map(); // id -> its place, of those that are not finished

async function make(count, fields) {
  for (let number = 0; number < count; number += 1) {
    const video = await attempt(() => ask("POST", `/v1/videos/${id}/duplicate`, fields()));
    if (!video) return;
    const place = element("li", { class: "film" });
    made.querySelector("ul").append(place);
    made.hidden = false;
    open.set(video.id, place);
    show(video);
  }
}

function show(video) {
  const place = open.get(video.id);
  const told = {
    queued: `Waits at position ${video.position}`,
    in_progress: `${video.progress} %`,
    failed: video.error?.message,
    completed: `Seed ${video.seed}`,
  }[video.status];
  const address = `/videos/${video.id}`;
  const isDone = video.status === "completed";
  if (isDone || video.status === "failed") open.delete(video.id);
  const content = `/v1/videos/${video.id}/content`;
  const picture = isDone ? element("video", { src: content, loop: true, playsinline: true, autoplay: true }) : null;
  if (picture) picture.muted = true;
  place.replaceChildren(
    element("a", { class: "poster", href: address }, picture),
    element("p", { class: "quiet" }, element("a", { href: address }, told)),
  );
}

setInterval(async () => {
  if (document.hidden) return;
  for (const each of open.keys()) {
    const video = await attempt(() => ask("GET", `/v1/videos/${each}`));
    if (!video) return;
    show(video);
  }
}, LOOK);

const seed = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
document.getElementById("again").addEventListener("click", () => make(1, () => ({})));
document.getElementById("vary").addEventListener("submit", (event) => {
  event.preventDefault();
  make(Number(document.getElementById("seeds").value), () => ({ seed: seed() }));
});
