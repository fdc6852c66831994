// One stream of events for the page; it ends while nobody looks, and is sought while the server is away.

import { ask } from "./api.js";

const EVENTS = ["queued", "waiting", "running", "done", "failed", "preview"];
const PAUSE = 1000; // milliseconds

// Call `told(name, value)` of all that is new, and `away(message)` when the server does not answer;
// the message is empty when it does again.
export function follow(told, away) {
  let stream = null, timer = 0;

  function close() {
    clearTimeout(timer);
    stream?.close();
    stream = null;
  }

  function open() {
    close();
    stream = new EventSource("/make/events");
    stream.onopen = () => away("");
    for (const name of EVENTS) {
      stream.addEventListener(name, (event) => told(name, JSON.parse(event.data)));
    }
    stream.onerror = () => {
      close();
      look();
    };
  }

  // Where there is no stream, as too many are open, this look is what is told.
  async function look() {
    try {
      const found = await ask("GET", "/make/queue");
      if (document.hidden) return;
      away("");
      for (const [name, value] of Object.entries(found)) told(name, value);
      timer = setTimeout(open, PAUSE);
    } catch (error) {
      away(error.message);
      timer = setTimeout(look, PAUSE);
    }
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close); // a page that is kept for "back" holds no stream
  addEventListener("pageshow", (event) => event.persisted && open());
  if (!document.hidden) open();
}
