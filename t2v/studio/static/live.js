// A page that follows the server: its parts are asked for again and again, and replaced where they
// changed. The address of the page says what is shown, so that reload and back work.
import { say } from "./api.js";

const place = document.getElementById("live");
const AWAY = 2; // seconds until a server that does not answer is asked again
let tag = null, asked = null, timer = 0, isAway = false;

function address() {
  const query = new URLSearchParams(location.search);
  query.set("part", "1");
  const first = document.querySelector(".plots figure");
  if (first) query.set("width", Math.min(1600, Math.max(280, Math.round(first.clientWidth / 20 - 1.6) * 20)));
  return `${place.dataset.live}?${query}`;
}

function put(html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  const { name, value } = document.activeElement ?? {};
  for (const part of fresh.content.querySelectorAll("[data-part]")) {
    const shown = document.getElementById(part.id);
    if (!shown || shown.isEqualNode(part)) continue;
    const hadFocus = shown.contains(document.activeElement);
    shown.replaceWith(part);
    if (hadFocus && name) part.querySelector(`[name="${CSS.escape(name)}"][value="${CSS.escape(value)}"]`)?.focus();
  }
  place.dispatchEvent(new Event("shown"));
}

function problemOf(status, told) {
  if (status === 404) return "This is not there any more.";
  return told.error?.message ?? `The server answered ${status}.`;
}

// Ask for the parts now, and then again from time to time.
export async function look() {
  clearTimeout(timer);
  const wanted = address();
  const headers = tag && asked === wanted ? { "If-None-Match": tag } : {};
  let seconds = AWAY;
  try {
    const answer = await fetch(wanted, { headers, cache: "no-store" });
    if (wanted !== address()) return; // another look is on its way
    if (answer.status === 401) location.assign("/login");
    if (answer.ok) {
      put(await answer.text());
      [tag, asked] = [answer.headers.get("ETag"), wanted];
    } else if (answer.status !== 304) {
      const told = await answer.json().catch(() => ({}));
      throw new Error(problemOf(answer.status, told));
    }
    seconds = Number(place.querySelector("[data-every]")?.dataset.every ?? 15);
    if (isAway) say("");
    isAway = false;
  } catch (error) {
    const text = error instanceof TypeError
      ? "The server does not answer. This page goes on when it does." : error.message;
    if (!isAway) say(text, true);
    isAway = true;
  }
  clearTimeout(timer);
  timer = setTimeout(() => document.hidden || look(), 1000 * seconds);
}

document.addEventListener("visibilitychange", () => document.hidden || look());
addEventListener("popstate", look);
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(look, 300);
});
look();
