// The film of a story: its progress scene by scene, then the film with its scenes to click.
import { ask, element, plain, say } from "./api.js";

const LOOK = 700; // milliseconds
const place = document.getElementById("film");
let timer = null;

// Show a video of scenes, and look at it until it has ended.
export function follow(video) {
  clearInterval(timer);
  place.hidden = false;
  place.dataset.id = video.id;
  show(video);
  if (!isOpen(video)) return;
  timer = setInterval(async () => {
    if (document.hidden) return;
    try {
      const now = await ask("GET", `/v1/videos/${video.id}`);
      say("");
      if (place.dataset.id !== now.id) return;
      show(now);
      if (!isOpen(now)) clearInterval(timer);
    } catch (error) {
      say(error.message, true); // it goes on when the server is back
    }
  }, LOOK);
}

const isOpen = (video) => ["queued", "in_progress"].includes(video.status);

function show(video) {
  const scenes = video.settings?.scenes ?? [];
  scenesTold(scenes, video);
  if (video.status === "completed") {
    showFilm(video);
    return;
  }
  const words = {
    queued: `The film waits at position ${video.position}.`,
    in_progress: `${video.progress} % of the film is made.`,
    failed: video.error?.code === "cancelled" ? "The film was cancelled." : `It failed: ${plain(video.error?.message)}`,
  }[video.status];
  if (place.dataset.words === words) return;
  place.dataset.words = words;
  const cancel = element("button", { type: "button", onclick: () =>
    ask("POST", `/v1/videos/${video.id}/cancel`).catch((error) => say(error.message, true)) }, "Cancel");
  place.replaceChildren(
    element("p", { class: video.status === "failed" ? "wrong" : "" }, words),
    element("progress", { max: 100, value: video.progress, "aria-label": "Progress of the film" }),
    isOpen(video) ? element("p", { class: "row" }, cancel) : "",
  );
}

// How far each card's scene is: windows follow one another, so a share of them is one of time.
function scenesTold(scenes, video) {
  const total = scenes.reduce((sum, scene) => sum + Number(scene.seconds ?? 0), 0);
  let passed = (total * video.progress) / 100;
  for (const [number, scene] of scenes.entries()) {
    const card = document.querySelector(`.scene[data-number="${number}"]`);
    const bar = card?.querySelector("progress");
    if (!bar) return;
    const isOwn = card.querySelector("textarea").value === scene.prompt; // it may be edited since
    bar.hidden = video.status !== "in_progress" || !isOwn;
    bar.value = Math.min(1, Math.max(0, passed / Number(scene.seconds)));
    passed -= Number(scene.seconds);
  }
}

async function showFilm(video) {
  delete place.dataset.words;
  const film = element("video", {
    src: `/v1/videos/${video.id}/content`, controls: true, loop: true, playsinline: true, autoplay: true,
    "aria-label": "The film",
  });
  film.muted = true;
  const marks = element("ol", { class: "marks", "aria-label": "Scenes" });
  place.replaceChildren(film, marks, element("p", { class: "row" },
    element("a", { class: "button", href: `/videos/${video.id}` }, "Its page"),
    element("a", { class: "button", href: film.src, download: "story.mp4" }, "Download")));
  const recipe = await ask("GET", `/videos/${video.id}/recipe`).catch(() => null);
  if (!recipe || place.dataset.id !== video.id) return;
  marks.replaceChildren(...marksOf(recipe).map(({ prompt, begins }) => element("li", {},
    element("button", { type: "button", dir: "auto", "data-begins": begins, onclick: () => {
      film.currentTime = begins;
    } }, prompt))));
  film.addEventListener("timeupdate", () => {
    const all = [...marks.querySelectorAll("button")];
    const here = all.findLast((mark) => Number(mark.dataset.begins) <= film.currentTime + 1e-3);
    for (const mark of all) mark.setAttribute("aria-current", String(mark === here));
  });
}

// A scene ends with the frame nearest to its end, counted from the beginning of the film.
function marksOf(recipe) {
  const fps = recipe.settings?.fps;
  let begin = 0;
  let passed = 0;
  return (recipe.story?.scenes ?? []).map(({ prompt, seconds }) => {
    const begins = (begin + 0.25) / fps;
    passed += seconds;
    begin = Math.max(begin + 1, Math.round(passed * fps));
    return { prompt, begins };
  });
}
