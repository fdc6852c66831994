// What is wrong in the form as far as the page can know, all of it at once.

const SEEDS = 2n ** 63n - 1n; // the largest
const SIZE = /^(\d{1,5})x(\d{1,5})$/;

// The faults of fields that are shown, `{ param, message }` each. `value(name)` gives what is typed
// (undefined where the model has its own), and `limits` are those of the server.
export function faults(value, limits) {
  const between = (low, high, isWhole = false) => (text) => {
    const number = Number(text), kind = isWhole ? "a whole number" : "a number";
    const isGood = number >= low && number <= high && (!isWhole || /^\d+$/.test(text));
    return isGood ? "" : `Give ${kind} from ${low} to ${high}.`;
  };
  const over = (high) => (text) => (Number(text) > 0 && Number(text) <= high ? "" : `Give a number over 0, and at most ${high}.`);
  const checks = {
    prompt: (text = "") => (text ? textFault("The prompt", text, limits.prompt) : "The prompt is empty; say what the video shows."),
    negative_prompt: (text) => textFault("The text", text, limits.prompt),
    size: (text) => sizeFault(text, limits.pixels),
    seconds: over(limits.seconds),
    seed: (text) => seedFault(text, Number(value("count"))),
    num_inference_steps: between(1, limits.num_inference_steps, true),
    guidance_scale: between(0, 100),
    best_of: between(1, limits.best_of, true),
    strength: over(1),
  };
  return Object.entries(checks)
    .filter(([param]) => param === "prompt" || value(param) !== undefined)
    .map(([param, check]) => ({ param, message: check(value(param)) }))
    .filter(({ message }) => message !== "");
}

// The seeds of so many videos: neighbours of one that is typed, as `t2v sample` makes several.
export function neighbours(typed, count) {
  return Array.from({ length: count }, (_, number) => `${BigInt(typed) + BigInt(number)}`);
}

function textFault(what, text, most) {
  const length = [...text].length; // as the server counts: a picture of a face is one
  return length > most ? `${what} has ${length.toLocaleString("en")} characters; ${most.toLocaleString("en")} are taken.` : "";
}

function sizeFault(text, most) {
  const [, width, height] = SIZE.exec(text) ?? [];
  if (!(width > 0 && height > 0)) return "Give width and height, as 640x384.";
  const pixels = width * height;
  return pixels > most ? `${text} has ${pixels.toLocaleString("en")} pixels; ${most.toLocaleString("en")} are taken.` : "";
}

function seedFault(text, count) {
  if (!/^\d{1,19}$/.test(text) || BigInt(text) > SEEDS) return `Give a whole number from 0 to ${SEEDS}.`;
  const isOver = BigInt(neighbours(text, count).at(-1)) > SEEDS;
  return isOver ? `The seeds of ${count} videos go on from this one, beyond ${SEEDS}; give a smaller one.` : "";
}
