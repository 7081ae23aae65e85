// Sums of what was used, as the server counts it.

import { amount } from "./cost.js";

export const COUNTS = [
  "requests", "cancelled", "failed", "lost", "prompt_tokens", "cached_tokens", "completion_tokens",
];

/** All rows in one: their counts, and what they cost in each currency. */
export function summed(rows) {
  const total = Object.fromEntries(
    COUNTS.map((name) => [name, rows.reduce((sum, row) => sum + row[name], 0)]),
  );
  const nanos = new Map();
  for (const { currency, nano } of rows.flatMap(({ costs }) => costs)) {
    nanos.set(currency, (nanos.get(currency) ?? 0) + nano);
  }
  total.costs = [...nanos]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([currency, nano]) => ({ currency, nano, formatted: amount(nano, currency) }));
  return total;
}

/** A row for each value of one dimension. */
export function summedBy(rows, dimension) {
  const groups = Map.groupBy(rows, (row) => row[dimension]);
  return [...groups].map(([value, group]) => ({ [dimension]: value, ...summed(group) }));
}

export const tokensOf = (row) => row.prompt_tokens + row.completion_tokens;

/** The currencies in which anything cost something. */
export function currenciesOf(rows) {
  const costs = rows.flatMap((row) => row.costs).filter(({ nano }) => nano);
  return [...new Set(costs.map(({ currency }) => currency))].sort();
}
