// Pictures and clips of the form: dropped, pasted or picked; shown small, each with what it is for.

import { ask, element, say } from "./api.js";

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
  // `use(recipe)` fills the form with the settings that a film holds.
  constructor(use) {
    this.use = use;
    this.entries = []; // { file, kind, role, choice, row, url }
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

  addAll(files) {
    for (const file of files) {
      if (file.type.startsWith("image/") && file.type !== "image/gif") this.add(file, "picture");
      else if (file.type.startsWith("video/") || file.type === "image/gif") this.drop(file);
      else this.refuse(`${file.name} is no picture and no clip.`);
    }
  }

  // A clip; one that holds its recipe offers its settings instead.
  async drop(file) {
    place("files-wrong").hidden = true;
    const offer = place("offer"), body = new FormData();
    body.append("file", file);
    offer.replaceChildren(element("p", { class: "quiet", dir: "auto" }, `${file.name} is read…`));
    offer.hidden = false;
    let recipe = null;
    try {
      recipe = await ask("POST", "/v1/recipes", body);
    } catch { /* a film of elsewhere has none: it can only be gone on from */ }
    if (recipe === null) {
      offer.hidden = true;
      this.add(file, "clip");
      return;
    }
    const leave = () => {
      offer.hidden = true;
      offer.replaceChildren();
    };
    const take = element("button", { type: "button", class: "main" }, "Take its settings");
    const goOn = element("button", { type: "button" }, "Go on from it");
    take.addEventListener("click", async () => {
      leave();
      await this.use(recipe);
      const unknown = recipe.unknown ?? [];
      say(unknown.length ? `The form has its settings, but ${unknown.join(", ")}.` : "The form has its settings.");
    });
    goOn.addEventListener("click", () => {
      leave();
      this.add(file, "clip");
    });
    offer.replaceChildren(
      element("p", {}, `${file.name} tells how it was made.`),
      element("p", { class: "row" }, take, goOn, element("button", { type: "button", onclick: leave }, "Neither")),
    );
    offer.hidden = false;
    take.focus();
  }

  add(file, kind, role = this.free(kind)) {
    place("files-wrong").hidden = true;
    if (role === undefined) return this.refuse(`This model takes no ${KINDS[kind]}.`);
    const url = URL.createObjectURL(file);
    const shown = kind === "clip" && file.type !== "image/gif"
      ? element("video", { src: url, loop: true, autoplay: true, playsinline: true })
      : element("img", { src: url, alt: "" });
    shown.muted = true;
    const choice = element("select", { "aria-label": `What ${file.name} is for` });
    const entry = { file, kind, role, choice, url };
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

  clear() {
    for (const entry of [...this.entries]) this.remove(entry);
  }

  refuse(message) {
    place("files-wrong").textContent = message;
    place("files-wrong").hidden = false;
  }

  // Fill with the files of a video, which its settings name by their addresses.
  async fill(settings) {
    this.clear();
    for (const role of ["input_reference", "last_reference", "mask"]) {
      const given = settings[role];
      if (!given) continue;
      const answer = given.url ? await fetch(given.url) : null;
      if (!answer?.ok) {
        this.refuse("A picture or clip of this video is kept elsewhere; add it again.");
        continue;
      }
      const blob = await answer.blob();
      const name = given.kind === "clip" ? "clip.mp4" : "picture.png";
      this.add(new File([blob], name, { type: given.kind === "clip" ? "video/mp4" : "image/png" }), given.kind, role);
    }
  }

  // The files as a form holds them; none where there are none. Two for one purpose are refused.
  into(body) {
    for (const { file, role } of this.entries) {
      if (body.has(role)) {
        throw Object.assign(new Error("Two files are for the same; choose another purpose for one."), { param: role });
      }
      body.append(role, file);
    }
  }
}

function needed(role) {
  if (role === "input_reference") return "a picture to begin with";
  return role === "mask" ? "a mask" : "a picture to end with";
}
