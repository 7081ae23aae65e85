// What a form says of a key ↔ what the admin API takes.

export const LIMITS = [
  { name: "rpm", label: "Requests a minute", unit: "requests/min",
    meaning: "In any 60 seconds. Empty: no limit." },
  { name: "tpm", label: "Tokens a minute", unit: "tokens/min",
    meaning: "Prompts and answers together, in any 60 seconds. Empty: no limit." },
  { name: "concurrency", label: "Requests at once", unit: "at once",
    meaning: "Those that wait are among them. Empty: no limit." },
];

const DAY = /^(\d{4}-\d{2}-\d{2})T00:00:00Z$/;

/** The form's values for a key that there is, or for a new one (null). */
export function valuesOf(key) {
  return {
    name: key?.name ?? "",
    tags: (key?.tags ?? []).join(", "),
    isForAll: (key?.models ?? null) === null,
    models: new Set(key?.models ?? []),
    rpm: text(key?.rpm),
    tpm: text(key?.tpm),
    concurrency: text(key?.concurrency),
    budget: key?.budget ?? "",
    ends: key?.expires_at ? "as it is" : "never",
    day: DAY.exec(key?.expires_at ?? "")?.[1] ?? "",
    weight: text(key?.weight ?? 1),
    modelLimits: Object.fromEntries(
      Object.entries(key?.model_limits ?? {}).map(([model, limits]) => [model, texts(limits)]),
    ),
  };
}

/** The body that makes a key of these values. */
export function newKey(values) {
  const wanted = Object.entries(bodyOf(values));
  return Object.fromEntries(wanted.filter(([, value]) => value !== null && value !== undefined));
}

/** What these values change of a key: what stays the same isn't said, null takes a limit away. */
export function changesOf(key, values) {
  const before = bodyOf(valuesOf(key));
  const wanted = Object.entries(bodyOf(values));
  return Object.fromEntries(
    wanted.filter(([name, value]) => value !== undefined && !isSame(value, before[name])),
  );
}

/** The whole body. `expires_at` is undefined where it stays as it is. */
function bodyOf(values) {
  return {
    name: values.name.trim(),
    tags: values.tags.split(",").map((tag) => tag.trim()).filter(Boolean).sort(),
    models: values.isForAll ? null : [...values.models].sort(),
    ...numbers(values),
    budget: values.budget.trim() || null,
    expires_at: endOf(values),
    weight: Number(values.weight) || 1,
    model_limits: Object.fromEntries(
      Object.entries(values.modelLimits)
        .map(([model, limits]) => [model, numbers(limits)])
        .filter(([, limits]) => Object.values(limits).some((limit) => limit !== null))
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    ),
  };
}

function endOf({ ends, day }) {
  if (ends === "as it is") return undefined;
  if (ends === "never") return null;
  return ends === "on a day" ? day : ends;
}

const text = (value) => (value == null ? "" : String(value));
const texts = (limits) => Object.fromEntries(LIMITS.map(({ name }) => [name, text(limits[name])]));
const numbers = (values) =>
  Object.fromEntries(LIMITS.map(({ name }) => [name, values[name] ? Number(values[name]) : null]));
const isSame = (a, b) => JSON.stringify(a) === JSON.stringify(b);
