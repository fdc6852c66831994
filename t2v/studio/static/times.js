// The times of a page, as the clock of whoever reads it shows them.
export function localTimes(within = document) {
  for (const each of within.querySelectorAll("time[datetime]")) {
    const time = new Date(each.dateTime);
    each.textContent = time.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}
