// Pages that ask the server for nothing by themselves still say when it is away, and back.
import { say } from "./api.js";

const LOOK = 3000; // milliseconds
let isAway = false;

async function look() {
  if (document.hidden) return;
  try {
    await fetch("/health"); // whatever it answers, it is there
    if (isAway) {
      say("The server is back.");
      setTimeout(() => say(""), LOOK);
    }
    isAway = false;
  } catch {
    say("The server does not answer. Start `t2v studio` again; nothing is lost.", true);
    isAway = true;
  }
}
setInterval(look, LOOK);
