// The page on which videos are made: the form, what runs and is done, and the queue.

import { ask, say, tellBack } from "./api.js";
import { allRead, reading } from "./make_busy.js";
import { neighbours } from "./make_check.js";
import { Files } from "./make_drop.js";
import { follow } from "./make_feed.js";
import { tellDone, tellPreview, tellRunning, tryAgain } from "./make_film.js";
import { Form } from "./make_form.js";
import { tellFailed, tellQueued, tellWaiting } from "./make_queue.js";
import { counter } from "./make_tokens.js";
import { tellWaits } from "./make_waits.js";
import { at, drawn } from "./make_words.js";
import { toStory } from "./handed.js";

const place = (id) => document.getElementById(id);
const lists = { queued: null, running: null, done: null };
let latest = null; // id of the video that was asked for last

const form = new Form(() => {
  tellNothing();
  count();
}, (facts) => files.offer(facts));
const files = new Files(use);
const count = counter(
  place("prompt-tokens"), () => place("prompt").value, () => place("model").value,
  () => form.facts?.limits.prompt ?? Infinity,
);

// Fill the form with what a video, or the recipe in a film that was dropped, was made with.
function use({ prompt, settings, seed }, drop) {
  if (settings.scenes) return toStory({ ...settings, seed: settings.seed ?? seed });
  return reading("the settings", async () => {
    await form.fill({ prompt, settings: { ...settings, seed: settings.seed ?? seed } });
    const isWhole = await files.fill(settings, drop);
    place("prompt").focus();
    place("prompt").scrollIntoView({ block: "nearest" });
    return isWhole;
  });
}

// Make what the form says, once all that it waits for is read: one request at a time.
async function make() {
  const button = place("go"), isFocused = document.activeElement === button;
  if (button.disabled) return;
  button.disabled = true;
  say(""); // of the one before
  form.clear();
  try {
    await allRead((words) => (button.textContent = `Reading ${words}…`));
    files.offers.check();
    button.textContent = "Sending…";
    const fields = form.fields();
    if (fields !== null) await send(fields, Number(place("count").value));
  } catch (error) {
    form.refuse(error);
  } finally {
    button.textContent = "Make";
    button.disabled = false;
    if (isFocused && document.activeElement === document.body) button.focus({ preventScroll: true });
  }
}

// As many videos as are asked for: the first is sent, the others are like it but for the seed.
async function send(fields, wanted) {
  if (files.seconds !== null) fields.seconds ??= files.seconds.toFixed(3);
  const seeds = fields.seed ? neighbours(fields.seed, wanted) : Array.from({ length: wanted }, drawn);
  let made = 0;
  try {
    const first = await ask("POST", "/v1/videos", bodyOf({ ...fields, seed: seeds[0] }));
    latest = first.id;
    for (made = 1; made < wanted; made++) {
      await ask("POST", at(first, "/duplicate"), { seed: seeds[made] });
    }
  } catch (error) {
    if (made > 0) error.message = `${made} of ${wanted} wait. ${error.message}`;
    throw error;
  }
  say(wanted === 1 ? "The video waits." : `${wanted} videos wait.`);
  if (matchMedia("(max-width: 45rem)").matches) place("stage").scrollIntoView();
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
    if (!event.repeat) make();
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
  tellWaits(lists, latest);
  const isFirst = lists.running?.length === 0 && lists.done?.length === 0;
  place("nothing").hidden = !isFirst || lists.queued?.length !== 0;
  place("examples").hidden = !isFirst || place("prompt").value !== "";
}

follow(tell, (message) => {
  if (message === "" && !place("away").hidden) {
    tellBack();
    if (tryAgain()) tellDone(lists.done ?? [], use);
  }
  place("away").hidden = message === "";
  place("away").textContent = message && `${message} What you typed stays, and the page comes back by itself.`;
});
addEventListener("popstate", () => lists.done && tellDone(lists.done, use));

// The address may name a video whose settings are taken, or whose film is gone on from.
async function start() {
  await form.restore();
  const query = new URLSearchParams(location.search);
  const from = query.get("from"), clip = query.get("continue");
  let isWhole = from === null || (await use(await ask("GET", at({ id: from }))));
  if (clip !== null) {
    const answer = await fetch(at({ id: clip }, "/content")).catch(() => null);
    if (!answer?.ok) throw new Error("There is no film of this video to go on from.");
    const film = new File([await answer.blob()], "clip.mp4", { type: "video/mp4" });
    isWhole = files.add(film, "clip") && isWhole;
  }
  if (from !== null || clip !== null) history.replaceState(null, "", location.pathname);
  return isWhole;
}

reading("the settings", start);
