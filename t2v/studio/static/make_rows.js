// Lists of videos whose rows stay while the lists change: what is focused or typed in them stays too.

// Bring the children of a list to those of `videos`: `build(video)` makes a row, `row.update(video)`
// tells it more, and a row with `row.stays()` true outlives its video.
export function keep(list, videos, build) {
  const focused = document.activeElement;
  const ids = new Set(videos.map((video) => video.id));
  const rows = new Map();
  let left = null;
  for (const row of [...list.children]) {
    if (ids.has(row.dataset.id)) rows.set(row.dataset.id, row);
    else if (!row.stays?.()) {
      if (row.contains(focused)) left = [...list.children].indexOf(row);
      row.remove();
    }
  }
  let next = list.firstElementChild;
  for (const video of videos) {
    let row = rows.get(video.id);
    if (row === undefined) {
      row = build(video);
      row.dataset.id = video.id;
    }
    row.update(video);
    while (next !== null && !ids.has(next.dataset.id)) next = next.nextElementSibling;
    if (row === next) next = next.nextElementSibling;
    else list.insertBefore(row, next);
  }
  if (left !== null) focusNear(list, left);
  else if (focused !== document.activeElement && list.contains(focused)) focused.focus();
}

// The focus of a row that has gone: to the one in its place, else to the list's head.
function focusNear(list, index) {
  const row = list.children[Math.min(index, list.children.length - 1)];
  const target = row?.querySelector("button") ?? document.getElementById("queue-head");
  target.focus();
}
