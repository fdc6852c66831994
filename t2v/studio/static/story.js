// The story: scenes in a row, kept in this browser, made into one film.
import { ask, attempt, element, plain, say } from "./api.js";
import "./away.js";
import { cardOf } from "./story_scene.js";
import { follow } from "./story_film.js";
import { taken } from "./handed.js";

const KEPT = "t2v-story";
const MOST_UNDO = 50;
const FIELDS = ["model", "seed", "size", "num_inference_steps", "guidance_scale", "negative_prompt"];
const place = (id) => document.getElementById(id);
const form = place("story");
const limits = { scenes: Number(form.dataset.mostScenes), seconds: Number(form.dataset.mostSeconds) };
const list = place("scenes");
const fresh = (before) => ({ prompt: "", seconds: before?.seconds ?? "2", start: null });
const before = []; // states that an undo goes back to

let scenes = [fresh()];

// --- what is kept ------------------------------------------------------------------------------

const settings = () => Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value]));

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify({ scenes, settings: settings() }));
  } catch {
    // private windows keep nothing
  }
}

function recall() {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(KEPT));
  } catch {
    return; // it is damaged, or nothing may be kept
  }
  if (!Array.isArray(kept?.scenes) || !kept.scenes.length) return;
  scenes = kept.scenes.map(read);
  fill(kept.settings ?? {});
}

function fill(values) {
  for (const name of FIELDS) {
    const field = form.elements[name];
    const text = String(values[name] ?? "");
    if (name !== "model") field.value = text;
    else if (field.tagName === "SELECT" && [...field.options].some((each) => each.value === text)) field.value = text;
  }
}

const read = (scene) => ({
  prompt: String(scene.prompt ?? ""),
  seconds: String(scene.seconds ?? ""),
  start: ["cut", "continue"].includes(scene.start) ? scene.start : null,
});

// --- changes of the row ------------------------------------------------------------------------

function change(next, focus = null) {
  before.push(JSON.stringify(scenes));
  if (before.length > MOST_UNDO) before.shift();
  scenes = next;
  draw(focus);
  keep();
}

function undo() {
  if (!before.length) return;
  scenes = JSON.parse(before.pop());
  draw();
  keep();
}

const acts = {
  add: () => change([...scenes, fresh(scenes.at(-1))], scenes.length),
  remove: (number) => change(scenes.length > 1 ? scenes.toSpliced(number, 1) : [fresh()], Math.max(0, number - 1)),
  copy: (number) => change(scenes.toSpliced(number + 1, 0, { ...scenes[number] }), number + 1),
  move: (number, by) => {
    const to = number + by;
    if (to < 0 || to >= scenes.length) return;
    change(scenes.toSpliced(number, 1).toSpliced(to, 0, scenes[number]), to);
  },
  type: () => {
    total();
    keep();
  },
};

function draw(focus = null) {
  const model = () => form.elements.model.value;
  list.replaceChildren(
    ...scenes.map((scene, number) => cardOf(scene, number, scenes.length, acts, limits, model)),
    element("li", { class: "more-scene" }, element("button", {
      type: "button", id: "add", disabled: scenes.length >= limits.scenes, onclick: acts.add,
    }, scenes.length < limits.scenes ? "Add a scene" : `${limits.scenes} scenes at most`)),
  );
  place("undo-edit").disabled = !before.length;
  place("wrong").textContent = "";
  total();
  if (focus !== null) list.children[focus]?.querySelector("textarea")?.focus();
}

function total() {
  const seconds = scenes.reduce((sum, scene) => sum + (Number(scene.seconds) || 0), 0);
  const several = scenes.length === 1 ? "1 scene" : `${scenes.length} scenes`;
  place("total").textContent = `${several}, ${Number(seconds.toFixed(2))} s`;
}

// A refusal, at the scene that it is about.
function refuse(message, number = null) {
  const card = number === null ? null : list.children[number];
  for (const each of list.querySelectorAll(".scene")) each.tell("");
  place("wrong").textContent = card?.tell ? "" : message;
  card?.tell?.(message);
  card?.querySelector("textarea")?.focus();
}

function refused(error) {
  const told = /^scenes\[(\d+)\][. ]?(.*)/s.exec(error.message);
  if (told) refuse(told[2], Number(told[1]));
  else refuse(error.message);
}

// --- files -------------------------------------------------------------------------------------

async function open(file) {
  const answer = await attempt(async () => {
    const sent = await fetch("/story/open", { method: "POST", body: file });
    const told = await sent.json();
    if (!sent.ok) throw new Error(plain(told.error?.message ?? `The server answered ${sent.status}.`));
    return told;
  });
  if (!answer) return;
  if (answer.scenes.length) change(answer.scenes.map(read));
  say("");
  if (answer.wrong) refuse(plain(answer.wrong.message).replaceAll("story.yaml", file.name), answer.wrong.scene);
  else say(`${file.name}: ${answer.scenes.length} scenes.`);
}

async function save() {
  const sent = await fetch("/story/save", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ scenes: asked() }),
  }).catch(() => null);
  if (!sent) return say("The server does not answer. Nothing is lost.", true);
  if (!sent.ok) {
    const { error } = await sent.json();
    return refused(error);
  }
  const address = URL.createObjectURL(await sent.blob());
  element("a", { href: address, download: "story.yaml" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// --- making ------------------------------------------------------------------------------------

// The scenes as the endpoint takes them.
function asked() {
  return scenes.map((scene, number) => {
    const text = scene.seconds.trim().replace(",", ".");
    const values = { prompt: scene.prompt, seconds: text === "" || Number.isNaN(Number(text)) ? text : Number(text) };
    return number && scene.start ? { ...values, start: scene.start } : values;
  });
}

async function make() {
  refuse("");
  const fields = Object.entries(settings()).filter(([, value]) => value.trim() !== "");
  try {
    const video = await ask("POST", "/v1/videos", { ...Object.fromEntries(fields), scenes: asked() });
    history.replaceState(null, "", `?video=${video.id}`);
    follow(video);
    place("film").scrollIntoView({ block: "nearest" });
  } catch (error) {
    refused(error);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  make();
});
form.addEventListener("input", keep);
form.addEventListener("change", (event) => event.target.name === "model" && draw());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) make();
});
place("undo-edit").addEventListener("click", undo);
place("empty").addEventListener("click", () => change([fresh()], 0));
place("save").addEventListener("click", save);
place("open").addEventListener("click", () => place("file").click());
place("file").addEventListener("change", ({ target }) => {
  if (target.files.length) open(target.files[0]);
  target.value = "";
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
});

recall();
draw();
const address = new URLSearchParams(location.search);
if (address.has("from")) {
  const video = await attempt(() => ask("GET", `/v1/videos/${encodeURIComponent(address.get("from"))}`));
  const given = video?.settings ?? {};
  if (video) {
    change((given.scenes ?? [{ prompt: video.prompt, seconds: video.seconds }]).map(read));
    fill({ ...given, seed: video.seed });
    keep();
    history.replaceState(null, "", "/story"); // what is typed from now on outlives a reload
  }
} else if (address.has("handed")) {
  const given = taken();
  if (given) {
    change(given.scenes.map(read));
    fill(given);
    keep();
  }
  history.replaceState(null, "", "/story");
} else if (address.has("video")) {
  const video = await attempt(() => ask("GET", `/v1/videos/${encodeURIComponent(address.get("video"))}`));
  if (video) follow(video);
}
