import { ask, attempt, say } from "./api.js";

const form = document.getElementById("make");
form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const video = await ask("POST", "/v1/videos", Object.fromEntries(new FormData(form)));
    say(`Video ${video.id} waits.`);
  });
});
