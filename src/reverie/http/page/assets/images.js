// Images that a user attaches: read, scaled down and written as data: URLs.

import { randomName } from "./api.js";

export const ACCEPTED = ["image/jpeg", "image/png", "image/webp", "image/gif"];
const LARGEST_FILE = 50_000_000;
/** Models see no more than this, and mostly less: in pixels. */
const LONGEST_SIDE = 1568;
/** A larger one is sent as a JPEG, whatever it was. A request has to hold all of a conversation. */
const LARGEST_IMAGE = 1_000_000;
const QUALITY = 0.85;

/** Reads a file: `{id, url, alt}`. Throws an `Error` whose message is for people.
 *
 * Each is drawn anew, and so without what a camera writes beside it, such as the place. */
export async function readImage(file) {
  const name = file.name || "What was pasted";
  if (!ACCEPTED.includes(file.type)) {
    throw new Error(`${name} isn't an image that can be sent: attach a JPEG, PNG, WebP or GIF.`);
  }
  if (file.size > LARGEST_FILE) {
    throw new Error(`${name} is too large: attach images of 50 MB at most.`);
  }
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Error(`${name} can't be read as an image: it may be damaged.`);
  }
  try {
    return { id: randomName(), url: await urlOf(await written(picture, file.type)), alt: "" };
  } finally {
    picture.close();
  }
}

/** The picture as a file, scaled down to what models see. */
async function written(picture, type) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const file = await fileOf(canvas, type === "image/gif" ? "image/png" : type);
  if (file.size <= LARGEST_IMAGE) return file;
  // A JPEG has nothing transparent: what is so becomes white rather than black.
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return fileOf(canvas, "image/jpeg");
}

const fileOf = (canvas, type) =>
  new Promise((resolve) => canvas.toBlob(resolve, type, QUALITY));

function urlOf(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("This image can't be read. Try it again."));
    reader.readAsDataURL(file);
  });
}

/** The images among what was pasted or dropped; or all its files, if there are none. */
export function filesIn(transfer) {
  const files = [...transfer.files];
  const images = files.filter(({ type }) => type.startsWith("image/"));
  return images.length ? images : files;
}
