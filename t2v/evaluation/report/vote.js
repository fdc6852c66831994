// Votes are kept where they are given: on the server that shows the page, else in the browser,
// which saves them as a file by the button.
const place = document.getElementById("votes");
const { ballot, answers } = place.dataset;
const sections = [...place.querySelectorAll("section[data-pair]")];
const counted = document.getElementById("count");
let problem = "";

function chosen(field) {
  return field.querySelector("input:checked")?.value;
}
function show() {
  let done = 0, all = 0;
  for (const section of sections) {
    const questions = [...section.querySelectorAll("[data-question]")];
    const given = questions.filter(chosen).length;
    section.classList.toggle("done", given === questions.length);
    done += given; all += questions.length;
  }
  counted.textContent = `${done} of ${all} answers` + problem;
}

// On a server: an answer that does not get there is sent again until it does.
const waiting = new Map();
let sending = false;
async function send() {
  if (sending) return;
  sending = true;
  let isAway = false;
  for (const [name, vote] of waiting) {
    let answered;
    try {
      const headers = { "Content-Type": "application/json", Accept: "application/json" };
      answered = await fetch(answers, { method: "POST", headers, body: JSON.stringify(vote) });
    } catch { answered = undefined; }
    if (answered?.ok) {
      if (waiting.get(name) === vote) waiting.delete(name);
      problem = "";
    } else if (answered && answered.status < 500 && answered.status !== 429) {
      const told = await answered.json().catch(() => ({}));
      waiting.delete(name);
      problem = `. Not kept: ${told.error?.message ?? answered.status}`;
    } else {
      problem = ". The server does not answer; what you choose is sent when it does";
      isAway = true;
      break;
    }
    show();
  }
  sending = false;
  show();
  if (waiting.size) setTimeout(send, isAway ? 2000 : 0); // one may have changed on its way
}
addEventListener("beforeunload", (event) => { if (waiting.size) event.preventDefault(); });

// In a browser.
const kept = "t2v votes " + ballot;
let state = { voter: crypto.randomUUID?.() ?? String(Math.random()).slice(2), votes: {} };
function keep() {
  try { localStorage.setItem(kept, JSON.stringify(state)); }
  catch { problem = ". This browser keeps none of them: save before you close the page"; }
}
function takeBack() {
  try {
    const before = JSON.parse(localStorage.getItem(kept) ?? "null");
    if (before && typeof before.voter === "string" && typeof before.votes === "object") state = before;
  } catch { problem = ". This browser keeps none of them: save before you close the page"; }
  for (const section of sections) {
    for (const input of section.querySelectorAll("input")) {
      const question = input.closest("[data-question]").dataset.question;
      input.checked = state.votes[section.dataset.pair]?.[question] === input.value;
    }
  }
}
document.getElementById("save")?.addEventListener("click", () => {
  const text = JSON.stringify({ ballot, ...state }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "votes.json";
  link.click();
});

place.addEventListener("change", ({ target }) => {
  const pair = target.closest("section").dataset.pair;
  const { question } = target.closest("[data-question]").dataset;
  if (answers) {
    waiting.set(target.name, { ballot, pair, question, answer: target.value });
    send();
  } else {
    (state.votes[pair] ??= {})[question] = target.value;
    keep();
  }
  show();
});
if (!answers) { takeBack(); keep(); }
show();
