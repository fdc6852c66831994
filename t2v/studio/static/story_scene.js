// The card of one scene.
import { ask, element } from "./api.js";

const PAUSE = 250; // milliseconds without a key, after which tokens are counted

// A card that edits a scene in place.
// acts: what its buttons do; model: gives the name of the model, whose tokens are counted.
export function cardOf(scene, number, count, acts, limits, model) {
  const name = (field) => `scene-${number}-${field}`;
  const tokens = element("p", { class: "quiet", id: name("tokens") });
  const wrong = element("p", { class: "wrong", role: "alert", id: name("wrong") });
  const prompt = element("textarea", {
    id: name("prompt"), dir: "auto", rows: 3, placeholder: "What this scene shows",
    "aria-describedby": `${name("tokens")} ${name("wrong")}`,
  });
  prompt.value = scene.prompt;
  prompt.addEventListener("input", () => {
    scene.prompt = prompt.value;
    counted();
    acts.type();
  });
  const seconds = element("input", { id: name("seconds"), inputmode: "decimal", autocomplete: "off", title: `At most ${limits.seconds} s` });
  seconds.value = scene.seconds;
  seconds.addEventListener("input", () => {
    scene.seconds = seconds.value;
    acts.type();
  });
  const button = (words, title, act, isOff = false) =>
    element("button", { type: "button", title, "aria-label": `${title}: scene ${number + 1}`, disabled: isOff, onclick: act }, words);
  const card = element(
    "li", { class: "scene card", "data-number": number },
    element("div", { class: "row top" },
      element("label", { for: name("prompt") }, `Scene ${number + 1}`),
      element("div", { class: "row acts" },
        button("←", "Move before", () => acts.move(number, -1), number === 0),
        button("→", "Move behind", () => acts.move(number, 1), number === count - 1),
        button("Copy", "Duplicate", () => acts.copy(number), count >= limits.scenes),
        button("×", "Remove", () => acts.remove(number)))),
    prompt, tokens,
    element("div", { class: "row fields" },
      element("div", {}, element("label", { for: name("seconds") }, "Seconds"), seconds),
      number ? element("div", {}, element("label", { for: name("start") }, "Begins"), startOf(scene, name("start"), acts)) : null),
    element("progress", { max: 1, value: 0, hidden: true, "aria-label": `Progress of scene ${number + 1}` }),
    wrong,
  );
  card.addEventListener("keydown", (event) => {
    if (!event.altKey || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    acts.move(number, event.key === "ArrowLeft" ? -1 : 1);
  });
  card.tell = (message) => {
    wrong.textContent = message;
    card.classList.toggle("bad", Boolean(message));
  };
  let timer = null;
  const counted = () => {
    clearTimeout(timer);
    timer = setTimeout(() => tell(model(), prompt, tokens), PAUSE);
  };
  counted();
  return card;
}

function startOf(scene, id, acts) {
  const field = element("select", { id },
    element("option", { value: "continue" }, "goes on"), element("option", { value: "cut" }, "cut"));
  field.value = scene.start ?? "continue";
  field.addEventListener("change", () => {
    scene.start = field.value;
    acts.type();
  });
  return field;
}

async function tell(model, prompt, place) {
  const text = prompt.value;
  if (!text.trim()) {
    place.textContent = "";
    return;
  }
  try {
    const { tokens, most, unknown } = await ask("POST", "/v1/prompts", { model, prompt: text });
    if (prompt.value !== text) return; // typed on since
    const counted = tokens === null ? "" : `${tokens} of ${most} tokens`;
    const isCut = tokens !== null && tokens > most;
    place.classList.toggle("wrong", isCut);
    place.textContent = [
      isCut ? `${counted}: the rest is not read` : counted,
      unknown?.length ? `unknown: ${unknown.join(", ")}` : "",
    ].filter(Boolean).join(" · ");
  } catch {
    place.textContent = ""; // the next key asks again
  }
}
