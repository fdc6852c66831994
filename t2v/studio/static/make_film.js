// What runs, as it comes; the film that is done, at once; and the latest ones to choose from.

import { ask, element, say } from "./api.js";
import { about, again, asks, at, drawn, time } from "./make_words.js";
import { keep } from "./make_rows.js";

const RECENT = 12;
const place = (id) => document.getElementById(id);
const previews = new Map(); // id of a video that runs: its latest picture
let shown = null; // the video whose film plays
let latest = null;

// The film that the address names; without one it is the latest that is done.
const chosen = () => new URLSearchParams(location.search).get("video");

export function tellPreview({ id, b64_png }) {
  previews.set(id, `data:image/png;base64,${b64_png}`);
  const row = [...place("running").children].find((each) => each.dataset.id === id);
  row?.look();
}

export function tellRunning(videos) {
  for (const id of previews.keys()) if (!videos.some((video) => video.id === id)) previews.delete(id);
  keep(place("running"), videos, buildRunning);
}

function buildRunning(first) {
  const prompt = element("p", { class: "prompt", dir: "auto" });
  const bar = element("progress", { max: 1, "aria-label": "Progress" });
  const words = element("span", { class: "quiet" });
  const picture = element("img", { alt: "What the video is heading for", hidden: true });
  const cancel = asks("Cancel", {}, () => ask("POST", at(first, "/cancel")), "The video is cancelled.");
  const row = element(
    "article", { class: "card runs" }, prompt, picture, bar,
    element("p", { class: "row between" }, words, cancel),
  );
  row.look = () => {
    const seen = previews.get(first.id);
    picture.hidden = !seen;
    if (seen) picture.src = seen;
  };
  row.update = (video) => {
    prompt.textContent = video.prompt;
    words.textContent = progress(video);
    const share = video.progress / 100;
    if (video.stage === "denoising" && video.step) bar.value = share;
    else if (video.stage === "decoding") bar.value = 1;
    else bar.removeAttribute("value"); // it is not known how long the model takes to be read
    row.look();
  };
  return row;
}

function progress(video) {
  if (!video.has_worker) return "Interrupted: it goes on when a worker takes it";
  if (video.stage === "loading" || !video.stage) return "Reading the model";
  if (video.stage === "decoding") return "Writing the film";
  const parts = [`Step ${video.step} of ${video.steps}`, `${video.progress} %`];
  if (video.samples > 1) parts.unshift(`Seed ${video.sample} of ${video.samples}`);
  if (typeof video.left === "number") parts.push(`${time(video.left)} left`);
  return parts.join(" · ");
}

// Tell of the videos that are done, the latest first.
export function tellDone(videos, use) {
  const isNew = latest !== null && videos.length > 0 && videos[0].id !== latest;
  latest = videos[0]?.id ?? "";
  if (isNew) say("The video is done.");
  keep(place("recent"), videos.slice(0, RECENT), (video) => thumbnail(video, videos, use));
  place("recent").hidden = videos.length < 2;
  const wanted = videos.find((video) => video.id === chosen());
  if (wanted || (!chosen() && videos.length)) show(wanted ?? videos[0], use);
  else if (chosen()) fetchChosen(use);
  else hide();
}

async function fetchChosen(use) {
  const id = chosen();
  if (shown?.id === id) return;
  try {
    const video = await ask("GET", at({ id }));
    if (chosen() === id && video.status === "completed") show(video, use);
  } catch (error) {
    if (error.code !== "video_not_found") return; // the server is away: the address stays
    history.replaceState(null, "", location.pathname); // it is deleted: the latest is shown
  }
}

function thumbnail(video, videos, use) {
  const picture = element("img", { alt: "", loading: "lazy", src: at(video, "/content?variant=thumbnail") });
  const button = element("button", { type: "button", class: "thumb", title: video.prompt }, picture);
  button.setAttribute("aria-label", `Show: ${video.prompt}`);
  picture.addEventListener("error", () => picture.replaceWith(element("span", {}, video.prompt)));
  button.addEventListener("click", () => {
    const isLatest = video.id === latest; // and then so is every one that follows
    history.pushState(null, "", isLatest ? location.pathname : `?video=${encodeURIComponent(video.id)}`);
    show(video, use);
  });
  const row = element("div", { role: "listitem" }, button);
  row.update = () => mark(row, video.id);
  return row;
}

function mark(row, id) {
  row.firstElementChild.setAttribute("aria-current", String(shown?.id === id));
}

function hide() {
  shown = null;
  place("film").hidden = true;
  place("film").replaceChildren();
}

function show(video, use) {
  if (shown?.id === video.id) return;
  shown = video;
  const film = element("video", {
    src: at(video, "/content"), autoplay: true, loop: true, controls: true, playsinline: true,
    "aria-label": `Film: ${video.prompt}`,
  });
  film.muted = true; // the attribute alone does not mute an element that a script makes
  film.addEventListener("error", () => tellWhy(film, video));
  place("film").replaceChildren(
    film,
    element("p", { class: "prompt", dir: "auto" }, video.prompt),
    element("p", { class: "quiet" }, about(video)),
    element(
      "p", { class: "row tight" },
      element("a", { class: "button", href: at(video, "/content"), download: `${video.id}.mp4` }, "Download"),
      element("a", { class: "button", href: `/videos/${video.id}` }, "Details"),
      asks("Again", { title: "The same settings and seed" }, () => again(video), "It is made again."),
      asks("Vary", { title: "The same settings, another seed" }, () => again(video, { seed: drawn() }), "Another one waits."),
      video.settings.scenes
        ? element("a", { class: "button", href: `/story?from=${video.id}` }, "Use settings")
        : asks("Use settings", { title: "Fill the form with what this was made with" }, () => use(video)),
      element("button", { type: "button", title: "Make the next video with this seed", onclick: () => keepSeed(video) }, "Keep seed"),
    ),
  );
  place("film").hidden = false;
  for (const row of place("recent").children) mark(row, row.dataset.id);
}

function keepSeed(video) {
  place("seed").value = video.seed;
  place("seed").dispatchEvent(new Event("input", { bubbles: true }));
  say(`The next video has seed ${video.seed}.`);
}

// Have a film that could not be played shown anew; true where there is one.
export function tryAgain() {
  if (place("film").querySelector(":scope > .wrong") === null) return false;
  shown = null;
  return true;
}

// A film that does not play: the server says why.
async function tellWhy(film, video) {
  try {
    await ask("GET", at(video, "/content"));
  } catch (error) {
    film.replaceWith(element("p", { class: "wrong" }, error.message));
  }
}
