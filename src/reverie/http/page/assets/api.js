// Calls the server that this page came from, with the keys that its user gave.

/** The server's address, with whatever path a proxy puts in front: this file lies two folders
 * below it. */
export const BASE = new URL("../../", import.meta.url).href;

/** An error that the server told. Its message is a sentence for people. */
export class ApiError extends Error {
  constructor(status, { message, code = "", param = null, problems = [] }, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.problems = problems; // of a configuration that was refused, a sentence each
    this.retryAfter = retryAfter;
  }

  /** True if the same request may succeed a little later. */
  get passing() {
    return ["overloaded", "model_loading", "request_in_progress"].includes(this.code)
      || [502, 503, 504].includes(this.status);
  }
}

/** A key for this tab, which is forgotten with it. */
class KeptKey {
  constructor(name) {
    this.name = name;
  }

  get() {
    try {
      return sessionStorage.getItem(this.name) ?? "";
    } catch {
      return ""; // storage is switched off
    }
  }

  set(key) {
    try {
      if (key) sessionStorage.setItem(this.name, key);
      else sessionStorage.removeItem(this.name);
    } catch {
      // as above: then there is no key
    }
  }
}

/** The key that requests of the chat carry, and the one of the server's operator. */
export const apiKey = new KeptKey("reverie.key");
export const adminKey = new KeptKey("reverie.admin-key");

/** Fetches below the server's address. Rejects with an `ApiError` unless it answers 2xx, and with
 * whatever `fetch` rejects with if it can't be reached. */
export async function call(path, options = {}) {
  const { body, headers = {}, signal, key = apiKey.get() } = options;
  const { method = body === undefined ? "GET" : "POST" } = options;
  const sent = { Accept: "application/json, text/event-stream", ...headers };
  if (key) sent.Authorization = `Bearer ${key}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const response = await fetch(BASE + path, { method, body, headers: sent, signal });
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** Asks the admin API, below `admin/v1/`, and gives its answer's JSON.
 * `value`, if there is one, is sent as JSON; null asks by POST without a body. */
export async function admin(path, value, { method, signal } = {}) {
  const body = value == null ? undefined : JSON.stringify(value);
  if (value === null) method ??= "POST";
  const options = { method, body, signal, key: adminKey.get() };
  return (await call(`admin/v1/${path}`, options)).json();
}

/** The names of the models that are served, as the operator sees them: none if they can't be had,
 * since they are only offered to choose from. */
export async function servedModels() {
  try {
    return (await admin("models")).data.map(({ name }) => name);
  } catch {
    return [];
  }
}

/** The fields that are set, as an address's query. */
export function queryOf(fields) {
  const set = Object.entries(fields).filter(([, value]) => value !== "" && value != null);
  return new URLSearchParams(set).toString();
}

/** An error in words. A failed `fetch` says little, and each browser something else. */
export function sentence(error) {
  if (error instanceof TypeError) return "The server can't be reached. Check that it runs.";
  return error.message;
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

/** The models that generate, the default one first. `defaults` are their own, for what a request
 * leaves open; `pricing` is null for those that cost nothing. */
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
      seesImages: one.input_modalities?.includes("image") ?? false,
      pricing: one.pricing ?? null,
      defaults: one.defaults ?? {},
    }));
  return found.sort((a, b) => (b.id === preferred) - (a.id === preferred));
}

/** A name that nobody can guess. `randomUUID` isn't there over plain http. */
export function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
