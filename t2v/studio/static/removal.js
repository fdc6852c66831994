// Deletion that can be taken back for some seconds, and is done then, or when the page is left.
import { say } from "./api.js";

const UNDO = 10; // seconds

const bar = document.getElementById("undo");
const words = document.getElementById("undoing");
let waiting = null;

// Announce that videos are deleted.
// hide, restore and gone change what the page shows, at once, after an undo, and when it is done.
export function remove(ids, { hide, restore, gone }) {
  finish();
  hide();
  let left = UNDO;
  const tell = () => {
    words.textContent = `${ids.length === 1 ? "1 video is" : `${ids.length} videos are`} deleted in ${left} s.`;
  };
  tell();
  bar.hidden = false;
  const timer = setInterval(() => {
    left -= 1;
    if (left > 0) tell();
    else finish();
  }, 1000);
  waiting = { ids, restore, gone, timer };
}

function end() {
  const ended = waiting;
  clearInterval(ended?.timer);
  waiting = null;
  bar.hidden = true;
  return ended;
}

export const undo = () => end()?.restore();

// Do what was announced.
export async function finish() {
  const ended = end();
  if (!ended) return;
  try {
    for (const answer of await Promise.all(ended.ids.map(drop))) {
      if (!answer.ok && answer.status !== 404) throw new Error(`the server answered ${answer.status}.`);
    }
    ended.gone();
  } catch (error) {
    ended.restore();
    say(`Not deleted: ${error.message}`, true);
  }
}

// A page that is left may still send this.
const drop = (id) => fetch(`/v1/videos/${id}`, { method: "DELETE", keepalive: true });

bar.querySelector("button").addEventListener("click", undo);
addEventListener("pagehide", finish);
