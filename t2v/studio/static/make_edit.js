// The settings of a video that waits or was not made, edited in its place.

import { element } from "./api.js";
import { keepEdit, keptEdit } from "./make_kept.js";
import { factsOf } from "./make_words.js";

const FIELDS = [
  ["prompt", "Prompt", "textarea"],
  ["size", "Size"],
  ["seconds", "Seconds"],
  ["seed", "Seed"],
  ["num_inference_steps", "Steps"],
  ["guidance_scale", "Guidance"],
  ["negative_prompt", "Not in the video", "textarea"],
];
const OF_SCENES = ["prompt", "seconds"]; // a story has them scene by scene
let count = 0;

// The form; `save(values)` gets the fields that were changed, null for those that are the model's
// again. What it throws is shown beside its field.
export function editor(video, label, save, close) {
  const number = ++count;
  const before = { ...(video.settings ?? {}), prompt: video.prompt, seed: video.seed };
  const inputs = new Map();
  const wrongs = new Map();
  const fields = FIELDS.filter(([name]) => !before.scenes || !OF_SCENES.includes(name));
  const rows = fields.map(([name, words, kind = "input"]) => {
    const id = `edit-${number}-${name}`;
    const empty = name === "seed" ? "random" : "auto";
    const input = element(kind, {
      id, dir: "auto", autocomplete: "off", "aria-describedby": `${id}-wrong`,
      ...(kind === "textarea" ? { rows: 2 } : { placeholder: empty }),
    });
    input.value = keptEdit(video.id)?.[name] ?? before[name] ?? "";
    const wrong = element("p", { id: `${id}-wrong`, class: "wrong", role: "alert", hidden: true });
    inputs.set(name, input);
    wrongs.set(name, wrong);
    return element("div", { class: kind === "textarea" || name === "seed" ? "field wide" : "field" },
      element("label", { for: id }, words), input, wrong);
  });
  const other = element("p", { class: "wrong wide", role: "alert", hidden: true });
  const send = element("button", { class: "main", "data-once": true }, label);
  const leave = element("button", { type: "button", onclick: close }, "Leave it");
  const form = element("form", { class: "edit", novalidate: true }, ...rows, other,
    element("p", { class: "row wide ends" }, send, leave));

  tellOwn(video, inputs);

  // The fields that are changed, as they are typed.
  const changed = () => [...inputs].filter(([name, input]) => input.value !== String(before[name] ?? ""));

  form.addEventListener("input", () =>
    keepEdit(video.id, Object.fromEntries(changed().map(([name, input]) => [name, input.value]))));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (send.disabled) return;
    for (const wrong of [...wrongs.values(), other]) wrong.hidden = true;
    const values = Object.fromEntries(changed().map(([name, input]) => [name, input.value.trim() || null]));
    if (Object.keys(values).length === 0 && !form.isGone) return close();
    send.disabled = true;
    try {
      await save(values);
    } catch (error) {
      const place = wrongs.get(error.param) ?? other;
      place.textContent = error.message;
      place.hidden = false;
      inputs.get(error.param)?.focus();
    } finally {
      send.disabled = false;
    }
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.begin = () => {
    form.scrollIntoView({ block: "nearest" });
    rows[0].querySelector("textarea, input").focus();
  };
  form.tellGone = () => {
    if (form.isGone) return;
    form.isGone = true;
    other.textContent = "This video does not wait any more. What you typed makes another one.";
    other.hidden = false;
    send.textContent = "Make another one";
  };
  return form;
}

// Show in empty fields what the model has by itself; without its facts they say "auto".
async function tellOwn(video, inputs) {
  let facts;
  try {
    facts = await factsOf(video.model);
  } catch {
    return; // the model is not offered any more, or the server is away
  }
  for (const [name, input] of inputs) {
    const own = facts.defaults[name] ?? null;
    if (own !== null) input.placeholder = typeof own === "number" ? `${own.toFixed(3) / 1}` : own;
  }
}
