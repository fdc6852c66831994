// The fields of the form: what a model has by itself, what is typed and kept, and what is refused.

import { element } from "./api.js";
import { reading } from "./make_busy.js";
import { faults } from "./make_check.js";
import { keepForm, keptForm } from "./make_kept.js";
import { LoRAs } from "./make_loras.js";
import { factsOf } from "./make_words.js";

const TEXTS = ["prompt", "model", "seconds", "seed", "count", "negative_prompt",
  "num_inference_steps", "guidance_scale", "best_of", "strength"];
const SENT = TEXTS.filter((name) => name !== "count");
const SHAPES = [[1, 1], [4, 3], [3, 4], [16, 9], [9, 16]];
const PLACES = { input_reference: "files", last_reference: "files", mask: "files" };
const place = (id) => document.getElementById(id);

export class Form {
  // `changed()` is called where a field was changed, `told(facts)` with the facts of another model.
  constructor(changed, told) {
    this.form = place("make");
    this.changed = changed;
    this.told = told;
    this.loras = new LoRAs(place("loras"), place("lora-rows"), () => this.keep());
    this.form.addEventListener("input", (event) => {
      if (event.target.type !== "file") this.keep();
    });
    place("size").addEventListener("change", () => this.showOther(true));
    place("model").addEventListener("change", () => reading("the model", () => this.readFacts()));
    place("forget-seed").addEventListener("click", () => this.set("seed", ""));
    const own = () => this.fill({ prompt: this.get("prompt"), settings: { model: this.get("model") } });
    place("reset").addEventListener("click", () => reading("the model", own));
    place("more").addEventListener("toggle", () => this.keep());
  }

  get(name) {
    return place(name).value.trim();
  }

  set(name, value) {
    place(name).value = value ?? "";
    this.keep();
  }

  get size() {
    return place("size").value === "other" ? this.get("other-size") : place("size").value;
  }

  set size(value) {
    const isListed = [...place("size").options].some((option) => option.value === value);
    place("size").value = isListed ? value : "other";
    place("other-size").value = isListed ? "" : value;
    this.showOther(false);
  }

  showOther(isFocused) {
    const isOther = place("size").value === "other";
    place("other-size").hidden = !isOther;
    if (isOther && isFocused) place("other-size").focus();
  }

  // What is typed into a field; undefined where it is empty or hidden.
  given(name) {
    if (name === "size") return place("size").value === "" ? undefined : this.size;
    if (place(name).closest("[hidden]") !== null) return undefined;
    return place(name).validity.badInput ? "no number" : this.get(name) || undefined;
  }

  // The fields that are given, as the endpoint takes them; null where some are wrong, which is told.
  fields() {
    const loras = this.loras.values();
    const wrong = this.facts ? faults((name) => this.given(name), this.facts.limits) : [];
    if (loras.some(({ strength }) => Math.abs(strength) > 2)) {
      wrong.push({ param: "lora", message: "Give strengths from -2 to 2." });
    }
    for (const fault of wrong.reverse()) this.refuse(fault); // the first one gets the focus
    if (wrong.length) return null;
    const found = {};
    for (const name of [...SENT, "size"]) {
      if (this.given(name) !== undefined) found[name] = this.given(name);
    }
    if (loras.length) found.lora = loras;
    return found;
  }

  // Fill all fields with the settings that a video was asked for; what it does not name is empty.
  async fill({ prompt, settings }) {
    place("prompt").value = prompt ?? "";
    if (settings.model && [...(place("model").options ?? [])].some((each) => each.value === settings.model)) {
      place("model").value = settings.model;
    }
    await this.readFacts();
    for (const name of SENT) {
      if (name !== "prompt" && name !== "model") place(name).value = settings[name] ?? "";
    }
    this.size = settings.size ?? "";
    this.loras.fill(settings.lora ?? []);
    if (["negative_prompt", "num_inference_steps", "guidance_scale", "best_of", "strength", "lora"].some((name) => settings[name])) {
      place("more").open = true;
    }
    this.clear();
    this.keep();
  }

  // What the model has by itself where a field is empty.
  async readFacts() {
    const name = this.get("model");
    const facts = await factsOf(name);
    if (this.get("model") !== name) return; // another one was chosen since
    const size = this.size;
    place("size").replaceChildren(...sizes(facts));
    this.size = size;
    for (const field of ["num_inference_steps", "guidance_scale"]) {
      const value = facts.defaults[field];
      place(field).placeholder = value === null ? "auto" : `${Number(value).toFixed(3) / 1}`;
    }
    for (const field of ["negative_prompt", "best_of"]) {
      place(field).closest(".field").hidden = !facts.fields.includes(field);
    }
    this.loras.offer(facts.loras);
    this.facts = facts;
    this.told(facts);
    this.changed();
  }

  keep() {
    this.changed();
    if (this.isRestoring) return; // half of it would be kept
    const values = Object.fromEntries(TEXTS.map((name) => [name, place(name).value]));
    const all = { ...values, size: this.size, lora: this.loras.values(), more: place("more").open };
    keepForm(all);
  }

  async restore() {
    this.isRestoring = true;
    try {
      await this.restoreFrom(keptForm());
    } finally {
      this.isRestoring = false;
    }
    this.keep();
  }

  async restoreFrom(kept) {
    for (const name of TEXTS) {
      const isChoice = place(name).tagName === "SELECT";
      const isOffered = !isChoice || [...place(name).options].some((each) => each.value === kept[name]);
      if (typeof kept[name] === "string" && isOffered && place(name).type !== "hidden") place(name).value = kept[name];
    }
    place("more").open = kept.more === true;
    await this.readFacts();
    if (typeof kept.size === "string") this.size = kept.size;
    if (Array.isArray(kept.lora)) this.loras.fill(kept.lora);
  }

  clear() {
    for (const wrong of this.form.querySelectorAll(".wrong")) wrong.hidden = true;
    for (const field of this.form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  }

  // Show a refusal beside its field, else at the button.
  refuse(error) {
    const name = PLACES[error.param] ?? error.param ?? "form";
    const wrong = place(`${name}-wrong`) ?? place("form-wrong");
    wrong.textContent = error.message;
    wrong.hidden = false;
    if (place("more").contains(wrong)) place("more").open = true;
    const field = wrong.id === `${name}-wrong` ? place(name) : null;
    field?.setAttribute("aria-invalid", "true");
    const target = error.place ?? field;
    if (target?.type !== "hidden") target?.focus();
    if (!error.place) wrong.scrollIntoView({ block: "nearest" });
  }
}

// The sizes to choose from: the model's own, those it was trained to make, else about its own area in
// the usual shapes.
function sizes({ defaults, sizes: trained, multiple, scale }) {
  const own = defaults.size;
  const others = trained.length || own === null ? trained : shapes(own, multiple * scale);
  const choices = new Set(others.filter((size) => size !== own));
  return [
    element("option", { value: "" }, own?.replace("x", " × ") ?? "auto"),
    ...[...choices].map((size) => element("option", { value: size }, size.replace("x", " × "))),
    element("option", { value: "other" }, "another…"),
  ];
}

function shapes(own, step) {
  const area = own.split("x").reduce((width, height) => width * height);
  const fit = (length) => Math.max(step, Math.round(length / step) * step);
  return SHAPES.map(([wide, high]) =>
    `${fit(Math.sqrt((area * wide) / high))}x${fit(Math.sqrt((area * high) / wide))}`);
}
