// The page on which videos are made: the form, what runs and is done, and the queue.

import { ask, attempt, say } from "./api.js";
import { Files } from "./make_drop.js";
import { follow } from "./make_feed.js";
import { tellDone, tellPreview, tellRunning } from "./make_film.js";
import { Form } from "./make_form.js";
import { tellFailed, tellQueued, tellWaiting } from "./make_queue.js";
import { counter } from "./make_tokens.js";
import { at, drawn } from "./make_words.js";

const place = (id) => document.getElementById(id);
const lists = { running: null, done: null };
const count = counter(place("prompt-tokens"), () => place("prompt").value, () => place("model").value);

const form = new Form(() => {
  tellNothing();
  count();
}, (facts) => files.offer(facts));
const files = new Files(use);

// Fill the form with what a video, or the recipe in a film, was made with.
async function use(video) {
  const { settings } = video;
  await attempt(async () => {
    await form.fill({ prompt: video.prompt, settings: { ...settings, seed: settings.seed ?? video.seed } });
    await files.fill(settings);
    place("prompt").focus();
    place("prompt").scrollIntoView({ block: "nearest" });
  });
}

// Make as many videos as are asked for: the first is sent, the others are like it but for the seed.
async function make() {
  form.clear();
  const wanted = Number(place("count").value);
  let made = 0;
  try {
    const fields = form.fields();
    if (files.seconds !== null) fields.seconds ??= files.seconds.toFixed(3);
    const seeds = seedsOf(fields.seed, wanted);
    const first = await ask("POST", "/v1/videos", bodyOf({ ...fields, seed: seeds[0] }));
    for (made = 1; made < wanted; made++) {
      await ask("POST", at(first, "/duplicate"), { seed: seeds[made] });
    }
    say(wanted === 1 ? "The video waits." : `${wanted} videos wait.`);
    if (matchMedia("(max-width: 45rem)").matches) place("stage").scrollIntoView();
  } catch (error) {
    if (made > 0) error.message = `${made} of ${wanted} wait. ${error.message}`;
    form.refuse(error);
  }
}

// Neighbours of a seed that is typed, as `t2v sample` makes several; else each is drawn.
function seedsOf(typed, wanted) {
  const isWhole = /^\d{1,18}$/.test(typed ?? "");
  return Array.from({ length: wanted }, (_, number) => {
    if (typed === undefined) return drawn();
    return isWhole ? `${BigInt(typed) + BigInt(number)}` : typed;
  });
}

function bodyOf(fields) {
  if (files.entries.length === 0) return fields;
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    body.append(name, typeof value === "object" ? JSON.stringify(value) : value);
  }
  files.into(body);
  return body;
}

place("make").addEventListener("submit", (event) => {
  event.preventDefault();
  make();
});
addEventListener("keydown", (event) => {
  const isElsewhere = event.target.closest?.("form") && event.target.closest("form") !== place("make");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !isElsewhere) {
    event.preventDefault();
    make();
  }
});
for (const example of document.querySelectorAll("[data-example]")) {
  example.addEventListener("click", () => {
    form.set("prompt", example.dataset.example);
    place("prompt").focus();
  });
}

function tell(name, value) {
  if (name in lists) lists[name] = value;
  if (name === "preview") tellPreview(value);
  if (name === "queued") tellQueued(value);
  if (name === "waiting") tellWaiting(value);
  if (name === "running") tellRunning(value);
  if (name === "done") tellDone(value, use);
  if (name === "failed") tellFailed(value);
  tellNothing();
}

// Before the first video, the page says what to do, and has prompts to begin with.
function tellNothing() {
  const isFirst = lists.running?.length === 0 && lists.done?.length === 0;
  place("nothing").hidden = !isFirst;
  place("examples").hidden = !isFirst || place("prompt").value !== "";
}

follow(tell, (message) => {
  place("away").hidden = message === "";
  place("away").textContent = message && `${message} What you typed stays, and the page comes back by itself.`;
});
addEventListener("popstate", () => lists.done && tellDone(lists.done, use));

// The address may name a video whose settings are taken, or whose film is gone on from.
async function start() {
  await form.restore();
  const query = new URLSearchParams(location.search);
  const from = query.get("from"), clip = query.get("continue");
  if (from !== null) await use(await ask("GET", at({ id: from })));
  if (clip !== null) {
    const answer = await fetch(at({ id: clip }, "/content"));
    if (!answer.ok) throw new Error("There is no film of this video to go on from.");
    files.add(new File([await answer.blob()], "clip.mp4", { type: "video/mp4" }), "clip");
  }
  if (from !== null || clip !== null) history.replaceState(null, "", location.pathname);
}

attempt(start);
