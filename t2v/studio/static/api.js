// Requests to the server, and what people are told of them.

const AWAY = "The server does not answer. Start t2v studio again; nothing is lost.";

// The answer of the server, as JSON; of a refusal its message is thrown.
export async function ask(method, path, body) {
  const sent = { method, headers: { Accept: "application/json" } };
  if (body instanceof FormData) sent.body = body;
  else if (body !== undefined) {
    sent.body = JSON.stringify(body);
    sent.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, sent);
  } catch {
    throw new Error(AWAY);
  }
  if (answer.status === 401) location.assign("/login");
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const error = new Error(plain(told.error?.message ?? `The server answered ${answer.status}.`));
    Object.assign(error, { param: told.error?.param, code: told.error?.code });
    throw error;
  }
  return told;
}

// A message as pages show it, without the marks of code that a terminal has.
export const plain = (message) => String(message ?? "").replaceAll("`", "");

// Say that the server is away, wherever nothing else says it.
export const sayAway = () => say(AWAY, true);

// Take back what was said of that, as it is there again.
export function tellBack() {
  for (const each of document.querySelectorAll(".wrong")) {
    if (!each.textContent.includes(AWAY)) continue;
    if (each.id === "said") say("");
    else each.hidden = true;
  }
}

// What makes a video (`data-once`) is asked once by a double click, however fast the first click is
// answered, and by a key that is held.
const once = (target) => target.closest?.("[data-once]") ?? target.form?.querySelector("[data-once]");
addEventListener("click", (event) => {
  if (event.detail < 2 || !event.target.closest?.("[data-once]")) return;
  event.preventDefault();
  event.stopPropagation();
}, true);
addEventListener("keydown", (event) => {
  const isTyped = event.target.tagName === "TEXTAREA" && !event.ctrlKey && !event.metaKey;
  if (!event.repeat || event.key !== "Enter" || isTyped || !once(event.target)) return;
  event.preventDefault();
  event.stopPropagation();
}, true);

let saying = 0; // the timer that ends what is said

// Tell people something at the foot of the page, and those who listen; what is wrong stays longer.
export function say(text, isWrong = false) {
  clearTimeout(saying);
  saying = setTimeout(() => (place.textContent = ""), isWrong ? 20_000 : 5_000);
  const place = document.getElementById("said");
  place.classList.toggle("wrong", isWrong);
  place.textContent = text;
}

// Do something, and tell people if it fails.
export async function attempt(doing) {
  try {
    return await doing();
  } catch (error) {
    say(error.message, true);
    return undefined;
  }
}

// An element with attributes and content; text stays text.
export function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...content.filter((each) => each !== null && each !== undefined));
  return made;
}
