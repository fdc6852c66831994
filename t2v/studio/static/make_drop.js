// Pictures and clips of the form: dropped, pasted or picked; shown small, each with what it is for.

import { ask, element, say } from "./api.js";
import { reading } from "./make_busy.js";
import { kindOf, megabytes } from "./make_content.js";
import { Offers } from "./make_offer.js";

const place = (id) => document.getElementById(id);
const KINDS = { picture: "pictures", clip: "clips" };

// What a file may be for, in words; a clip without a mask or a strength is gone on from.
function words(role, kind, isEdited) {
  if (role === "mask") return "Mask: white is new";
  if (role === "last_reference") return "End with it";
  if (kind === "picture") return "Begin with it";
  return isEdited ? "Change it" : "Go on from it";
}

export class Files {
  // `use(recipe, drop)` fills the form with the settings that a film holds; files that came before
  // that drop are not of it.
  constructor(use) {
    this.use = use;
    this.entries = []; // { file, kind, role, choice, row, url, drop }
    this.offers = new Offers(place("offer"));
    this.drops = 0;
    this.last = Promise.resolve(); // file that is read
    this.bytes = Infinity; // of a file
    this.offered = {}; // field -> kinds of files that the model takes for it
    this.needs = []; // fields that it makes nothing without
    this.goesOn = true; // a clip alone is gone on from
    this.own = null; // seconds of a video by itself
    this.most = Infinity; // seconds that are taken
    place("pick").addEventListener("click", () => place("file").click());
    place("file").addEventListener("change", () => {
      this.addAll([...place("file").files]);
      place("file").value = "";
    });
    for (const name of ["dragenter", "dragover"]) addEventListener(name, (event) => this.over(event));
    addEventListener("dragleave", (event) => event.relatedTarget === null && this.light(false));
    addEventListener("drop", (event) => {
      this.light(false);
      const files = [...(event.dataTransfer?.files ?? [])];
      if (files.length === 0) return;
      event.preventDefault(); // else the browser leaves the page for the file
      this.addAll(files);
    });
    place("strength").addEventListener("input", () => this.tell());
    addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length === 0) return;
      event.preventDefault();
      this.addAll(files);
    });
  }

  // The files that a model takes; those that it does not take stay, and are refused when it is made.
  offer({ files, needs, goes_on: goesOn, defaults, limits }) {
    this.offered = files;
    this.own = defaults.seconds;
    this.most = limits.seconds;
    this.bytes = limits.upload_bytes;
    this.needs = needs;
    this.goesOn = goesOn;
    this.tell();
  }

  over(event) {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    this.light(true);
  }

  light(isOver) {
    place("drop").classList.toggle("over", isOver);
  }

  // Take files one after the other, so that they stand in their order.
  addAll(files) {
    const drop = ++this.drops;
    place("files-wrong").hidden = true;
    for (const file of files) {
      const former = this.last;
      this.last = reading(file.name, async () => {
        await former;
        return this.read(file, drop);
      });
    }
  }

  // Add a file if the server will take it, else say why not and give false; of a film that holds its
  // recipe ask first.
  async read(file, drop) {
    const line = this.offers.open(file.name);
    try {
      if (file.size > this.bytes) {
        return this.refuse(`${file.name} has ${megabytes(file.size)}; ${megabytes(this.bytes)} are taken.`);
      }
      const kind = await kindOf(file);
      if (kind === null) return this.refuse(`${file.name} is no picture or clip that can be read.`);
      const recipe = kind === "clip" ? await recipeOf(file) : null;
      if (recipe === null) return this.add(file, kind);
      this.offers.ask(line, file.name, () => this.take(recipe, drop), () => this.add(file, "clip"));
      return true;
    } catch (error) {
      return this.refuse(`${file.name} is not read. ${error.message}`);
    } finally {
      if (!("name" in line.dataset)) this.offers.close(line);
    }
  }

  async take(recipe, drop) {
    if (!(await this.use(recipe, drop))) return;
    const unknown = recipe.unknown ?? [];
    say(unknown.length ? `The form has its settings, but ${unknown.join(", ")}.` : "The form has its settings.");
  }

  add(file, kind, role = this.free(kind)) {
    if (role === undefined) return this.refuse(`This model takes no ${KINDS[kind]}.`);
    const url = URL.createObjectURL(file);
    const shown = kind === "clip" && file.type !== "image/gif"
      ? element("video", { src: url, loop: true, autoplay: true, playsinline: true })
      : element("img", { src: url, alt: "" });
    shown.muted = true;
    const choice = element("select", { "aria-label": `What ${file.name} is for` });
    const entry = { file, kind, role, choice, url, drop: this.drops };
    shown.addEventListener("loadedmetadata", () => {
      entry.seconds = shown.duration;
      this.tell();
    });
    choice.addEventListener("change", () => {
      entry.role = choice.value;
      this.tell();
    });
    const remove = element("button", { type: "button", "aria-label": `Remove ${file.name}` }, "Remove");
    remove.addEventListener("click", () => {
      this.remove(entry);
      place("pick").focus();
    });
    entry.row = element("li", {}, shown, element("div", {}, element("small", { dir: "auto" }, file.name), choice, remove));
    this.entries.push(entry);
    place("files").append(entry.row);
    this.tell();
    return true;
  }

  // What each file may be for, and how far a clip may be changed, where there is one.
  tell() {
    place("drop").hidden = Object.keys(this.offered).length === 0 && this.entries.length === 0;
    const missing = this.needs.filter((role) => !this.has(role));
    place("needs").hidden = missing.length === 0;
    place("needs").textContent = `This model needs ${missing.map(needed).join(" and ")}.`;
    const hasClip = this.entries.some((entry) => entry.kind === "clip" && entry.role === "input_reference");
    const isEdited = this.isEdited, seconds = this.seconds ?? this.own;
    place("seconds").placeholder = seconds === null ? "auto" : `${seconds.toFixed(3) / 1}`;
    place("strength").closest(".field").hidden = !hasClip;
    place("strength").placeholder = this.goesOn && !this.has("mask") ? "not: go on from it" : "";
    for (const { kind, role, choice } of this.entries) {
      const roles = Object.keys(this.offered).filter((each) => this.offered[each].includes(kind));
      choice.replaceChildren(...[...new Set([...roles, role])].map((each) =>
        element("option", { value: each, selected: each === role }, words(each, kind, isEdited))));
    }
  }

  get isEdited() {
    return !this.goesOn || place("strength").value !== "" || this.has("mask");
  }

  // The length of a video where none is typed and it goes on from a clip, which is its beginning:
  // as much is made anew as the model makes by itself. Else null.
  get seconds() {
    const clip = this.entries.find((entry) => entry.role === "input_reference" && entry.seconds > 0);
    if (!clip || this.isEdited || this.own === null || !Number.isFinite(clip.seconds)) return null;
    return Math.min(this.most, clip.seconds + this.own);
  }

  has(role) {
    return this.entries.some((entry) => entry.role === role);
  }

  // What a file is most likely for, beside those that are there.
  free(kind) {
    const roles = Object.keys(this.offered).filter((each) => this.offered[each].includes(kind));
    const isBesideClip = this.entries.some((entry) => entry.kind === "clip");
    const order = isBesideClip ? ["input_reference", "mask"] : ["input_reference", "last_reference", "mask"];
    return order.find((role) => roles.includes(role) && !this.has(role)) ?? roles[0];
  }

  remove(entry) {
    URL.revokeObjectURL(entry.url);
    entry.row.remove();
    this.entries = this.entries.filter((each) => each !== entry);
    this.tell();
  }

  // Say what is not taken, beside what was said of other files; gives false.
  refuse(message) {
    const wrong = place("files-wrong");
    wrong.textContent = wrong.hidden ? message : `${wrong.textContent} ${message}`;
    wrong.hidden = false;
    return false;
  }

  // Fill with the files of a video, which its settings name by their addresses; false where one is
  // missing. Files that came with a drop, or after it, stay.
  async fill(settings, drop = Infinity) {
    let isWhole = true;
    for (const entry of this.entries.filter((each) => each.drop < drop)) this.remove(entry);
    for (const role of ["input_reference", "last_reference", "mask"]) {
      const given = settings[role];
      if (!given) continue;
      const answer = given.url ? await fetch(given.url).catch(() => null) : null;
      if (!answer?.ok) {
        isWhole = this.refuse("A picture or clip of this video cannot be had from the server; add it again.");
        continue;
      }
      const blob = await answer.blob();
      const name = given.kind === "clip" ? "clip.mp4" : "picture.png";
      this.add(new File([blob], name, { type: given.kind === "clip" ? "video/mp4" : "image/png" }), given.kind, role);
    }
    return isWhole;
  }

  // The files as a form holds them; none where there are none. Two for one purpose are refused.
  into(body) {
    const bytes = this.entries.reduce((sum, { file }) => sum + file.size, 0);
    if (bytes > this.bytes) {
      const message = `The files have ${megabytes(bytes)} together; ${megabytes(this.bytes)} are taken.`;
      throw Object.assign(new Error(message), { param: "input_reference" });
    }
    for (const { file, role } of this.entries) {
      if (body.has(role)) {
        throw Object.assign(new Error("Two files are for the same; choose another purpose for one."), { param: role });
      }
      body.append(role, file);
    }
  }
}

// The recipe that a clip holds; null of one that holds none, which can only be gone on from.
async function recipeOf(file) {
  const body = new FormData();
  body.append("file", file);
  try {
    return await ask("POST", "/v1/recipes", body);
  } catch (error) {
    if (error.code === "no_recipe") return null;
    throw error;
  }
}

function needed(role) {
  if (role === "input_reference") return "a picture to begin with";
  return role === "mask" ? "a mask" : "a picture to end with";
}
