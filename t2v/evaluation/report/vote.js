// Votes are kept in the browser as they are given, and saved as a file by the button.
const sections = [...document.querySelectorAll("section[data-pair]")];
const ballot = document.body.dataset.ballot;
const place = "t2v votes " + ballot;
const counted = document.getElementById("count");
let state = { voter: crypto.randomUUID?.() ?? String(Math.random()).slice(2), votes: {} };
let kept = true;
try {
  const before = JSON.parse(localStorage.getItem(place) ?? "null");
  if (before && typeof before.voter === "string" && typeof before.votes === "object") state = before;
} catch { kept = false; }
function keep() {
  try { localStorage.setItem(place, JSON.stringify(state)); } catch { kept = false; }
}
function show() {
  let done = 0, all = 0;
  for (const section of sections) {
    const votes = state.votes[section.dataset.pair] ?? {};
    const questions = [...section.querySelectorAll("[data-question]")];
    const given = questions.filter((each) => votes[each.dataset.question]).length;
    section.classList.toggle("done", given === questions.length);
    done += given; all += questions.length;
  }
  counted.textContent = `${done} of ${all} answers` +
    (kept ? "" : ". This browser keeps none of them: save before you close the page");
}
for (const section of sections) {
  for (const field of section.querySelectorAll("[data-question]")) {
    for (const input of field.querySelectorAll("input")) {
      input.checked = state.votes[section.dataset.pair]?.[field.dataset.question] === input.value;
      input.addEventListener("change", () => {
        (state.votes[section.dataset.pair] ??= {})[field.dataset.question] = input.value;
        keep();
        show();
      });
    }
  }
}
document.getElementById("save").addEventListener("click", () => {
  const text = JSON.stringify({ ballot, ...state }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "votes.json";
  link.click();
});
keep();
show();
