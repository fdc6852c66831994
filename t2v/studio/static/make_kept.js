// What is typed and not sent yet, kept by the browser: for this tab, and for the next new one.

const FORM = "t2v.make", EDITS = "t2v.edits";
const MOST = 20; // videos whose edits are kept

// What was typed into the form of this tab; of a new tab, what was typed last in any.
export const keptForm = () => read(sessionStorage, FORM) ?? read(localStorage, FORM) ?? {};

export function keepForm(values) {
  for (const storage of [sessionStorage, localStorage]) storage.setItem(FORM, JSON.stringify(values));
}

// What was typed into the settings of a video that waits; null where they are not open.
export const keptEdit = (id) => read(localStorage, EDITS)?.[id] ?? null;

// Keep that; null forgets it.
export function keepEdit(id, values) {
  const { [id]: _, ...others } = read(localStorage, EDITS) ?? {};
  const all = Object.entries(values === null ? others : { ...others, [id]: values });
  localStorage.setItem(EDITS, JSON.stringify(Object.fromEntries(all.slice(-MOST))));
}

function read(storage, key) {
  try {
    return JSON.parse(storage.getItem(key));
  } catch {
    return null; // what is no JSON was not written here
  }
}
