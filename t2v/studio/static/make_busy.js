// What is being read for the form: it is not sent before that.

import { say } from "./api.js";

const reads = new Map(); // what is done, and its words

// Do something that the form waits for. Where it fails that is told, unless it gives false, having
// told it itself.
export function reading(words, doing) {
  const done = doing().then(
    (result) => result !== false,
    (error) => {
      say(error.message, true);
      return false;
    },
  );
  reads.set(done, words);
  done.then(() => reads.delete(done));
  return done;
}

// Wait until all is read; `tell(words)` is called with what is waited for. The words of what could
// not be read are thrown.
export async function allRead(tell) {
  const failed = new Set();
  while (reads.size > 0) {
    const [[done, words]] = reads;
    tell(words);
    if (!(await done)) failed.add(words);
    reads.delete(done);
  }
  if (failed.size) throw new Error(`Not sent: ${[...failed].join(" and ")} could not be read.`);
}
