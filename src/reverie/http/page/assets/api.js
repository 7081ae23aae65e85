// Calls the server that this page came from, with the key that its user gave.

const KEY = "reverie.key";

/** The server's address, with whatever path a proxy puts in front: this file lies two folders
 * below it. */
export const BASE = new URL("../../", import.meta.url).href;

/** An error that the server told. Its message is a sentence for people. */
export class ApiError extends Error {
  constructor(status, { message, code = "", param = null }, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }

  /** True if the same request may succeed a little later. */
  get passing() {
    return ["overloaded", "model_loading", "request_in_progress"].includes(this.code)
      || [502, 503, 504].includes(this.status);
  }
}

/** The key for this tab; it is forgotten with it. */
export const apiKey = {
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return ""; // storage is switched off
    }
  },
  set(key) {
    try {
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
    } catch {
      // as above: then there is no key
    }
  },
};

/** Fetches below the server's address. Rejects with an `ApiError` unless it answers 2xx, and with
 * whatever `fetch` rejects with if it can't be reached. */
export async function call(path, { body, headers = {}, signal } = {}) {
  const sent = { Accept: "application/json, text/event-stream", ...headers };
  const key = apiKey.get();
  if (key) sent.Authorization = `Bearer ${key}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  const response = await fetch(BASE + path, { method, body, headers: sent, signal });
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const wait = Number(response.headers.get("Retry-After")) || null;
  try {
    const { error } = await response.json();
    if (typeof error?.message === "string") return new ApiError(response.status, error, wait);
  } catch {
    // not the gateway's own: a proxy in between
  }
  const message = `The server, or a proxy before it, answered with status ${response.status}.`;
  return new ApiError(response.status, { message }, wait);
}

/** The models that generate, the default one first: `[{id, loaded, aliasOf, context}]`. */
export async function models() {
  const [{ data }, { model_id: preferred }] = await Promise.all(
    ["v1/models", "version"].map(async (path) => (await call(path)).json()),
  );
  const found = data
    .filter(({ task }) => task === "generate")
    .map((one) => ({
      id: one.id,
      loaded: one.loaded,
      aliasOf: one.alias_of ?? null,
      context: one.max_input_tokens ?? null,
    }));
  return found.sort((a, b) => (b.id === preferred) - (a.id === preferred));
}

/** A name that nobody can guess. `randomUUID` isn't there over plain http. */
export function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
