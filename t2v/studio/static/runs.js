// The page of a training: choices, values under the pointer, and samples through time.
import { look } from "./live.js";

const form = document.getElementById("view");
const place = document.getElementById("live");

// Choices are in the address; those that need other parts of the page load it anew.
document.getElementById("apply").hidden = true;
const smooth = form.elements.smooth;
smooth.addEventListener("input", () => {
  document.getElementById("window").textContent = smooth.dataset.windows.split(" ")[smooth.value];
});
form.addEventListener("change", (event) => {
  const query = new URLSearchParams(new FormData(form));
  for (const [key, value] of [...query]) if (!value) query.delete(key, value);
  if (event.target.name === "with") {
    location.assign(`?${query}`);
    return;
  }
  history.replaceState(null, "", `?${query}`);
  look();
});

// Values under the pointer, or where the arrow keys lead.
function read(plot, share) {
  const { left, right, low, high, x } = plot.dataset;
  const reading = plot.parentNode.querySelector(".reading");
  plot.querySelector(".at")?.remove();
  if (share === null) {
    reading.textContent = "";
    return;
  }
  const wanted = Number(low) + share * (Number(high) - Number(low));
  const at = Number(left) + share * (Number(right) - Number(left));
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const ends = { class: "at", x1: at, x2: at, y1: 8, y2: 216 };
  for (const [name, value] of Object.entries(ends)) line.setAttribute(name, value);
  plot.append(line);
  const values = [...plot.querySelectorAll("[data-points]")].map((path) => {
    const nearest = points(path).reduce((best, point) =>
      Math.abs(point[0] - wanted) < Math.abs(best[0] - wanted) ? point : best);
    return `${path.dataset.label} ${nearest[1]} (${nearest[0].toLocaleString("en")})`;
  });
  reading.textContent = `${x} ${wanted.toLocaleString("en", { maximumSignificantDigits: 4 })}: ${values.join(", ")}`;
}
const known = new WeakMap();
function points(path) {
  if (!known.has(path)) {
    known.set(path, path.dataset.points.split(" ").map((each) => each.split(",").map(Number)));
  }
  return known.get(path);
}
function shareAt(plot, clientX) {
  const box = plot.getBoundingClientRect();
  const at = (clientX - box.left) / box.width * plot.viewBox.baseVal.width;
  const { left, right } = plot.dataset;
  return Math.min(1, Math.max(0, (at - left) / (right - left)));
}
place.addEventListener("pointermove", ({ target, clientX }) => {
  const plot = target.closest?.("svg.plot");
  if (plot) read(plot, shareAt(plot, clientX));
});
place.addEventListener("pointerout", ({ target, relatedTarget }) => {
  const plot = target.closest?.("svg.plot");
  if (plot && !plot.contains(relatedTarget)) read(plot, null);
});

// Samples: one slider for all trainings that are shown; each shows its last sheet up to that step.
const slider = document.getElementById("sheet");
const pictures = document.getElementById("pictures");
let steps = [];
function sheets() {
  const runs = [...document.querySelectorAll(".sheets")];
  const before = steps;
  steps = [...new Set(runs.flatMap((run) => run.dataset.steps.split(" ").map(Number)))].sort((a, b) => a - b);
  document.getElementById("samples").hidden = !steps.length;
  document.getElementById("sheets").hidden = steps.length > 0 && runs.length === document.getElementById("sheets").children.length;
  if (!steps.length) return;
  const wasLast = !before.length || Number(slider.value) === before.length - 1;
  slider.max = steps.length - 1;
  if (wasLast) slider.value = slider.max;
  show(runs);
}
function show(runs) {
  const step = steps[slider.value];
  document.getElementById("sheet-step").textContent = step.toLocaleString("en");
  runs.forEach((run, index) => {
    const own = run.dataset.steps.split(" ").map(Number).filter((each) => each <= step);
    const figure = pictures.children[index] ?? pictures.appendChild(empty());
    const [picture, caption] = figure.children;
    const last = own.at(-1);
    picture.hidden = last === undefined;
    const wanted = `${run.dataset.path}${last}`;
    if (last !== undefined && picture.getAttribute("src") !== wanted) picture.src = wanted;
    picture.alt = `samples of ${run.dataset.run} at step ${last}`;
    caption.textContent = last === undefined ? `${run.dataset.run}: none yet` : `${run.dataset.run}, step ${last.toLocaleString("en")}`;
  });
}
function empty() {
  const figure = document.createElement("figure");
  figure.append(document.createElement("img"), document.createElement("figcaption"));
  return figure;
}
slider.addEventListener("input", () => show([...document.querySelectorAll(".sheets")]));
place.addEventListener("shown", sheets);
sheets();
