// A video that waits or is being made: the page of the film comes when it is there.
import { ask, say } from "./api.js";

const LOOK = 1000; // milliseconds
const place = document.getElementById("unfinished");
const isOpen = ["queued", "in_progress"].includes(place.dataset.status);

async function look() {
  if (document.hidden) return;
  try {
    const video = await ask("GET", `/v1/videos/${place.dataset.id}`);
    say("");
    if (!["queued", "in_progress"].includes(video.status)) location.reload();
    document.getElementById("share").value = video.progress;
    const state = video.position ? `It waits at position ${video.position}.` : `It is being made: ${video.progress} %.`;
    document.getElementById("state").textContent = state;
  } catch (error) {
    say(error.message, true);
  }
}
if (isOpen) setInterval(look, LOOK);
