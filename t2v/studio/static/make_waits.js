// The video that was asked for last, until it runs: why it waits.

import { element } from "./api.js";

const place = document.getElementById("waits");
let hasRun = false; // a worker has taken something while this page is open

// Tell of the video with that id, or of the first that waits where nothing runs.
export function tellWaits({ queued, running, done }, id) {
  hasRun ||= running?.length > 0;
  const first = running?.length === 0 && done?.length === 0 ? queued?.[0] : undefined;
  const video = queued?.find((each) => each.id === id) ?? first;
  place.hidden = !video;
  if (!video) return;
  const before = video.position - 1 + (running?.length ?? 0);
  place.replaceChildren(
    element("p", { class: "prompt", dir: "auto" }, video.prompt),
    element("p", { class: "quiet" }, reason(before)),
  );
}

function reason(before) {
  if (place.dataset.workers === "0" && !hasRun) return "Waits: no worker is at work. The command t2v queue run starts one.";
  if (before > 0) return `Waits: ${before} before it${hasRun ? "" : ", and the worker is starting"}`;
  return hasRun ? "Waits: it is next" : "Waits: the worker is starting";
}
