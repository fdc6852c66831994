// What a file is, by its content: told before it is sent.

// the first bytes of clips, after so many others
const STARTS = [
  ...["ftyp", "moov", "mdat", "wide", "free", "skip"].map((name) => [4, name]),
  ...["GIF8", "RIFF", "OggS", "FLV", "\x1a\x45\xdf\xa3", "\x30\x26\xb2\x75", "\x00\x00\x01", "G"].map((name) => [0, name]),
];

// `picture` or `clip`; null of what cannot be read as the one that its name says.
export async function kindOf(file) {
  if (file.type.startsWith("image/") && file.type !== "image/gif") return (await isPicture(file)) ? "picture" : null;
  const isNamed = file.type.startsWith("video/") || file.type === "image/gif";
  return isNamed && (await isClip(file)) ? "clip" : null;
}

async function isPicture(file) {
  try {
    (await createImageBitmap(file)).close();
    return true;
  } catch {
    return false; // the browser knows the kinds that the server reads
  }
}

// A container is enough: what is in it the server may read where a browser does not.
async function isClip(file) {
  const text = String.fromCharCode(...new Uint8Array(await file.slice(0, 16).arrayBuffer()));
  return STARTS.some(([at, start]) => text.startsWith(start, at));
}

// The bytes of a file, in words that do not say less than they are.
export function megabytes(bytes) {
  return `${Math.ceil(bytes / 1e5) / 10} MB`;
}
