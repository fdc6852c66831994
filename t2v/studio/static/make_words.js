// Words about videos, and what is done with them by a button.

import { ask, attempt, element, say } from "./api.js";

// A seed as the server draws it.
export const drawn = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;

export function at(video, more = "") {
  return `/v1/videos/${encodeURIComponent(video.id)}${more}`;
}

// What a model takes and has by itself.
export const factsOf = (name) =>
  ask("GET", `/v1/models/${name.split("/").map(encodeURIComponent).join("/")}`);

// Size, length, seed: what tells videos of one prompt apart.
export function about(video) {
  const { num_inference_steps: steps } = video.settings ?? {};
  return [
    video.size === "auto" ? null : video.size.replace("x", " × "),
    video.seconds === "auto" ? null : `${Number(video.seconds).toFixed(3) / 1} s`,
    steps ? `${steps} step${steps === 1 ? "" : "s"}` : null,
    `seed ${video.seed}`,
  ].filter(Boolean).join(" · ");
}

export function time(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// A button that asks something of the server, and tells where that is refused.
export function asks(label, attributes, doing, done = "") {
  const button = element("button", { type: "button", "data-once": true, ...attributes }, label);
  let isAsked = false;
  button.addEventListener("click", async () => {
    if (isAsked) return;
    isAsked = true;
    await attempt(async () => {
      await doing();
      if (done) say(done);
    });
    isAsked = false;
  });
  return button;
}

// The same video again, or one like it.
export const again = (video, changes = {}) => ask("POST", at(video, "/duplicate"), changes);
