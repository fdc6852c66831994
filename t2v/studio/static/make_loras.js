// LoRAs with their strengths: a slider and a number that go together; 0 is off.

import { element } from "./api.js";

export class LoRAs {
  constructor(box, rows, changed) {
    this.box = box;
    this.rows = rows;
    this.changed = changed;
    this.wanted = new Map(); // of another model too, until it is chosen again
  }

  // The LoRAs that there are, by their names.
  offer(names) {
    this.box.hidden = names.length === 0;
    this.rows.replaceChildren(...names.map((name) => this.row(name)));
  }

  row(name) {
    const given = { min: -2, max: 2, step: 0.05, value: this.wanted.get(name) ?? 0 };
    const id = `lora-${name}`;
    const slider = element("input", { type: "range", id, ...given });
    const number = element("input", { type: "number", ...given, "aria-label": `Strength of ${name}` });
    const follow = (one, other) =>
      one.addEventListener("input", () => {
        if (one.value === "") return;
        other.value = one.value;
        this.wanted.set(name, Number(one.value));
        this.changed();
      });
    follow(slider, number);
    follow(number, slider);
    return element("div", { class: "lora" }, element("label", { for: id, dir: "auto" }, name), slider, number);
  }

  values() {
    const names = [...this.rows.querySelectorAll("label")].map((label) => label.textContent);
    return names
      .map((name) => ({ name, strength: this.wanted.get(name) ?? 0 }))
      .filter((lora) => lora.strength !== 0);
  }

  fill(loras) {
    this.wanted = new Map(loras.map((lora) => [lora.name, lora.strength ?? 1]));
    this.offer([...this.rows.querySelectorAll("label")].map((label) => label.textContent));
  }
}
