// A review: verdicts and captions without a new page, keys, and films that play where one looks.
import { ask, attempt, element, say } from "./api.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const all = () => [...document.querySelectorAll(".clip")];
let current = null;
let turn = Promise.resolve(); // acts go one after the other: undo needs to know the last one
let waiting = 0; // acts that the server has not answered

// What the server shows of a clip, without losing the place in its form.
function update(key, html) {
  const about = document.querySelector(`#clip-${CSS.escape(key)} .about`);
  if (!about) return;
  const fresh = new DOMParser().parseFromString(html, "text/html").querySelector(".about");
  about.className = fresh.className;
  about.querySelector(".state").replaceWith(fresh.querySelector(".state"));
  const text = about.querySelector("textarea");
  text.defaultValue = fresh.querySelector("textarea").defaultValue;
  if (document.activeElement !== text) text.value = text.defaultValue;
  for (const button of about.querySelectorAll("[aria-pressed]")) {
    const other = fresh.querySelector(`button[value=${button.value}]`);
    button.setAttribute("aria-pressed", other.getAttribute("aria-pressed"));
  }
}

// The head of the page; its buttons stay, for one may be held down at this moment.
function updateSummary(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const old = document.querySelector(`#summary [data-part=${part.dataset.part}]`);
    if (part.tagName !== "BUTTON") old.replaceWith(part);
    else {
      old.replaceChildren(...part.childNodes);
      old.disabled = part.disabled;
    }
  }
}

// Send a form as one of its buttons would; gives the keys of the clips that changed.
function act(form, value) {
  waiting += 1;
  turn = turn.then(() =>
    attempt(async () => {
      const sent = new FormData(form);
      sent.set("act", value);
      const told = await ask("POST", form.getAttribute("action"), sent);
      for (const [key, html] of Object.entries(told.clips)) update(key, html);
      updateSummary(told.summary);
      say(told.said);
      return Object.keys(told.clips);
    }).finally(() => (waiting -= 1)),
  );
  return turn;
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if ("act" in form.dataset) {
    event.preventDefault();
    act(form, event.submitter.value);
  } else if (waiting) {
    event.preventDefault(); // what was typed last belongs to the manifest too
    turn.then(() => form.submit());
  }
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]:not(.film)");
  if (!link || !waiting || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  turn.then(() => location.assign(link.href));
});

const isEdited = (text) => text.value !== text.defaultValue;
document.addEventListener("focusout", (event) => {
  const text = event.target;
  if (text.name !== "text" || !isEdited(text) || text.form.contains(event.relatedTarget)) return;
  act(text.form, "caption");
});
addEventListener("beforeunload", (event) => {
  if ([...document.querySelectorAll("textarea[name=text]")].some(isEdited)) event.preventDefault();
});

// The clip that keys are about.
function goTo(clip) {
  current?.classList.remove("current");
  current = clip;
  clip.classList.add("current");
  clip.focus({ preventScroll: true });
  clip.scrollIntoView({ block: "center", behavior: calm.matches ? "auto" : "smooth" });
}

function step(by) {
  const clips = all();
  const next = clips[current ? clips.indexOf(current) + by : 0];
  if (next) goTo(next);
  else document.querySelector(by > 0 ? "a[rel=next]" : "a[rel=prev]")?.click();
}

function decide(value) {
  if (!current) return step(1);
  act(current.querySelector("form"), value);
  if (all().at(-1) !== current) step(1);
}

async function undo() {
  if (document.querySelector("#undo button").disabled) return say("There is nothing to undo.");
  const keys = await act(document.getElementById("undo"), "undo");
  const clip = keys?.length && document.getElementById(`clip-${keys[0]}`);
  if (clip) goTo(clip);
}

const KEYS = {
  ArrowRight: () => step(1),
  n: () => step(1),
  ArrowLeft: () => step(-1),
  p: () => step(-1),
  k: () => decide("keep"),
  x: () => decide("drop"),
  e: () => {
    const text = current?.querySelector("textarea");
    text?.focus();
    text?.setSelectionRange(text.value.length, text.value.length);
  },
  u: undo,
  "?": () => document.getElementById("keys").showModal(),
};
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("textarea, input, select, dialog");
  if (event.target.name === "text" && event.key === "Escape") {
    event.target.closest(".clip").focus({ preventScroll: true });
    return;
  }
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const doing = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!doing) return;
  event.preventDefault();
  doing();
});
document.addEventListener("focusin", (event) => {
  const clip = event.target.closest(".clip");
  if (!clip || clip === current) return;
  current?.classList.remove("current");
  current = clip;
  clip.classList.add("current");
});

const keys = document.getElementById("keys-button");
keys.hidden = false;
keys.addEventListener("click", KEYS["?"]);

const order = document.getElementById("order");
order.querySelector("button").hidden = true;
order.querySelector("select").addEventListener("change", () => order.requestSubmit());

// Films play, without sound, while most of them is in sight.
function play(place) {
  let film = place.querySelector("video");
  if (!film) {
    film = element("video", { src: place.href, loop: true, playsinline: true, tabindex: "-1" });
    film.muted = true;
    film.addEventListener("playing", () => place.classList.add("plays"));
    film.addEventListener("error", () => explain(place));
    place.append(film);
  }
  film.play().catch(() => {}); // it left before it was there, or this browser asks for a click
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !calm.matches) play(target);
      else target.querySelector("video")?.pause();
    }
  },
  { threshold: 0.6 },
);

// In place of a clip that cannot be decoded: the reason.
async function explain(place) {
  if (place.classList.contains("broken")) return; // picture and film say so both
  place.classList.add("broken");
  seen.unobserve(place);
  const reason = await ask("GET", place.querySelector("img").src).then(
    () => "It cannot be shown.",
    (error) => error.message,
  );
  place.replaceWith(element("p", { class: "film blank" }, reason));
}

for (const place of document.querySelectorAll("a.film")) {
  const picture = place.querySelector("img");
  picture.addEventListener("error", () => explain(place), { once: true });
  if (picture.complete && picture.currentSrc && !picture.naturalWidth) explain(place);
  place.addEventListener("click", (event) => {
    event.preventDefault();
    const film = place.querySelector("video");
    if (film && !film.paused) film.pause();
    else play(place);
  });
  seen.observe(place);
}

const named = document.getElementById(location.hash.slice(1));
if (named?.classList.contains("clip")) goTo(named);
