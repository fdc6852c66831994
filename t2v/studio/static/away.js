// Pages that ask the server for nothing by themselves still say when it is away, and back.
import { say, sayAway, tellBack } from "./api.js";

const LOOK = 3000; // milliseconds
let isAway = false;

async function look() {
  if (document.hidden) return;
  try {
    await fetch("/health"); // whatever it answers, it is there
    if (isAway) {
      tellBack();
      say("The server is back.");
      setTimeout(() => say(""), LOOK);
    }
    isAway = false;
  } catch {
    sayAway();
    isAway = true;
  }
}
setInterval(look, LOOK);
