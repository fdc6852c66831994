// The tokens of the prompt as one types, and the words that the model does not know.

import { ask } from "./api.js";

const PAUSE = 250; // milliseconds without a key

// Count the tokens of a text in `place`; `prompt()` gives it, `model()` the name of its model, and
// `most()` how many characters are taken.
export function counter(place, prompt, model, most) {
  let timer = 0, last = "";

  async function count() {
    const text = prompt(), name = model();
    if (!text.trim()) {
      last = "";
      return tell("", false);
    }
    const length = [...text].length;
    if (length > most()) {
      last = "";
      return tell(`${[length, most()].map((each) => each.toLocaleString("en")).join(" of ")} characters`, true);
    }
    if (`${name}\n${text}` === last) return;
    last = `${name}\n${text}`;
    let told;
    try {
      told = await ask("POST", "/v1/prompts", { model: name, prompt: text });
    } catch {
      last = ""; // the next key asks again
      return tell("", false);
    }
    if (prompt() !== text || model() !== name) return; // the next count is under way
    if (told.tokens === null) return tell("", false); // this model counts none
    const over = told.most === null ? 0 : told.tokens - told.most;
    const parts = [told.most === null ? `${told.tokens} tokens` : `${told.tokens} of ${told.most} tokens`];
    if (over > 0) parts.push(`${over} more than the model takes`);
    if (told.unknown?.length) parts.push(`unknown: ${told.unknown.join(", ")}`);
    tell(parts.join(" · "), over > 0);
  }

  function tell(text, isWrong) {
    if (place.textContent !== text) place.textContent = text;
    place.classList.toggle("wrong", isWrong);
  }

  return () => {
    clearTimeout(timer);
    timer = setTimeout(count, PAUSE);
  };
}
