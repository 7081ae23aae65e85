// What answers cost, exactly as the ledger reckons: in whole nano-units, which are integers.

const NANO = 10n ** 9n;
const PRICE = /^([0-9]+)(?:[.]([0-9]{1,3})0*)?$/;

/** An amount exactly, with at least two decimals, as the server writes it: "0.18 USD". */
export function amount(nano, currency) {
  const exact = BigInt(nano);
  const decimals = String(exact % NANO).padStart(9, "0").replace(/0+$/, "").padEnd(2, "0");
  return `${exact / NANO}.${decimals} ${currency}`.trim();
}

/** A price per million tokens, such as "0.18", in nano-units per token. */
function perToken(price) {
  const [, units, decimals = ""] = PRICE.exec(price);
  return BigInt(units + decimals.padEnd(3, "0"));
}

/** The cost of an answer in words, such as "0.00018 USD"; "" where the model has no price.
 * Cached tokens are among those of the prompt, and have a price of their own. */
export function costOf(pricing, usage) {
  if (!pricing) return "";
  const cached = Math.min(usage.prompt_tokens_details?.cached_tokens ?? 0, usage.prompt_tokens);
  const nano =
    BigInt(usage.prompt_tokens - cached) * perToken(pricing.input) +
    BigInt(cached) * perToken(pricing.cached) +
    BigInt(usage.completion_tokens) * perToken(pricing.output);
  return amount(nano, pricing.currency);
}
