// Questions about films that tell how they were made: one for each, until it is answered.

import { element } from "./api.js";

export class Offers {
  constructor(box) {
    this.box = box;
  }

  // A line that a file is read.
  open(name) {
    const line = element("div", { class: "question" },
      element("p", { class: "quiet", dir: "auto" }, `${name} is read…`));
    this.box.append(line);
    this.box.hidden = false;
    return line;
  }

  close(line) {
    line.remove();
    this.box.hidden = this.box.children.length === 0;
  }

  // Ask in that line what becomes of the film: `take()` its settings, or `goOn()` from it.
  ask(line, name, take, goOn) {
    const button = (label, doing, attributes = {}) => element("button", {
      type: "button", ...attributes,
      onclick: () => {
        this.close(line);
        doing();
      },
    }, label);
    const first = button("Take its settings", take, { class: "main" });
    line.dataset.name = name;
    line.replaceChildren(
      element("p", { dir: "auto" }, `${name} tells how it was made.`),
      element("p", { class: "row" }, first, button("Go on from it", goOn), button("Neither", () => {})),
    );
    const isTyping = document.activeElement?.matches("input, textarea, select");
    if (!isTyping && !this.box.contains(document.activeElement)) first.focus();
  }

  // Refuse to go on while a question is open.
  check() {
    const open = this.box.querySelector("[data-name]");
    if (open === null) return;
    const error = new Error(`Not sent: choose first what is taken of ${open.dataset.name}.`);
    error.place = open.querySelector("button");
    throw error;
  }
}
