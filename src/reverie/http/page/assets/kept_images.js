// The images of conversations, in this browser's database: its other storage is too small for them.
//
// Each conversation has one record: the data: URLs of its images, by their ids.

const DATABASE = "reverie";
const TABLE = "images";

const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let opened = null;

function table(mode) {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
    result(request).then(resolve, reject);
  });
  return opened.then((database) => database.transaction(TABLE, mode).objectStore(TABLE));
}

const imagesOf = ({ messages }) => messages.flatMap(({ images = [] }) => images);
const idsOf = (conversation) => imagesOf(conversation).map(({ id }) => id).join();

/** What the records hold, as far as it is known: the images' ids, by their conversation's. */
const known = new Map();

/** Keeps a conversation's images, and forgets those that it no longer has. False if there is no
 * room for them, or the database is switched off. */
export async function keepImages(conversation) {
  const { id } = conversation;
  const ids = idsOf(conversation);
  if (ids === (known.get(id) ?? "")) return true;
  known.set(id, ids);
  try {
    const images = await table("readwrite");
    // An image that hasn't been fetched yet has no URL here.
    const before = (await result(images.get(id))) ?? {};
    const record = imagesOf(conversation).map((one) => [one.id, one.url ?? before[one.id]]);
    await result(images.put(Object.fromEntries(record.filter(([, url]) => url)), id));
    return true;
  } catch {
    known.delete(id);
    return false;
  }
}

/** Gives a conversation's images their URLs. One that isn't kept any more stays without. */
export async function fetchImages(conversation) {
  const missing = imagesOf(conversation).filter(({ url }) => !url);
  if (!missing.length) return;
  try {
    const record = (await result((await table("readonly")).get(conversation.id))) ?? {};
    for (const image of missing) image.url = record[image.id];
    known.set(conversation.id, idsOf(conversation));
  } catch {
    // switched off: the conversation is shown without them
  }
}

export async function forgetImages({ id }) {
  known.delete(id);
  try {
    await result((await table("readwrite")).delete(id));
  } catch {
    // switched off: there is nothing to forget
  }
}
