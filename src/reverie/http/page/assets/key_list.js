// The list of keys: what each may do, has spent, and what can be done with it.

import { LIMITS } from "./key_fields.js";
import { Meter, moment, whole } from "./parts.js";
import { html } from "./view.js";

const SOME_MODELS = 4;

/** `onAction(kind, key)` opens what changes a key; `onTag(tag)` looks for keys with a tag. */
export function KeyList({ keys, isSearched, hasMore, onMore, onTag, onAction }) {
  return html`
    ${keys.length > 0 && html`<ul class="cards" aria-label="Keys">
      ${keys.map((key) => html`<${Key} key=${key.id} of=${key} onTag=${onTag}
        onAction=${onAction} />`)}
    </ul>`}
    ${!keys.length && html`<p class="hint">${nothing(isSearched, hasMore)}</p>`}
    ${hasMore && html`<p><button type="button" onClick=${onMore}>
      ${keys.length ? "Show more" : "Look further"}
    </button></p>`}
  `;
}

function nothing(isSearched, hasMore) {
  if (hasMore) return "None of the keys that were looked through is such a one.";
  if (isSearched) return "No key is such a one. Search for less, or for another status.";
  return "There is no key yet. Make one: its holder sends it as “Authorization: Bearer …”. "
    + "A server that has a key answers nobody without one.";
}

function Key({ of: key, onTag, onAction }) {
  const { name, id, status, tags, budget } = key;
  const button = (kind, label) => html`<button type="button" class="quiet"
    onClick=${() => onAction(kind, key)}>${label}<span class="off-screen"> ${name}</span></button>`;
  return html`<li class="card key-card" id=${id} tabindex="-1">
    <div class="who">
      <p class="row"><strong class="name" dir="auto">${name}</strong>
        <span class=${`badge ${status}`}>${status}</span></p>
      <p><code class="hint">${id}</code></p>
      ${tags.length > 0 && html`<p class="tags">
        ${tags.map((tag) => html`<button type="button" class="tag" key=${tag} dir="auto"
          onClick=${() => onTag(tag)}><span class="off-screen">Keys with the tag </span>${tag}
        </button>`)}
      </p>`}
    </div>
    <dl class="terms">
      <div><dt>Limits</dt><dd>${limitsOf(key)}</dd></div>
      <div><dt>Models</dt><dd>${modelsOf(key)}</dd></div>
      <div><dt>Ends</dt><dd>${endOf(key)}</dd></div>
    </dl>
    <div class="money">
      ${budget === null
        ? html`<p class="hint">No budget</p>`
        : html`<${Meter} label=${`Spent by ${name}`} value=${key.spent_nano} most=${key.budget_nano}
          text=${`${key.spent} of ${budget} spent`} />`}
    </div>
    <div class="row does">
      ${button("form", "Change")}
      ${status === "active" && button("rotate", "Rotate")}
      ${status !== "revoked" && button("revoke", "Revoke")}
    </div>
  </li>`;
}

function limitsOf(key) {
  const told = LIMITS.filter(({ name }) => key[name] !== null)
    .map(({ name, unit }) => `${whole(key[name])} ${unit}`);
  const models = Object.keys(key.model_limits).length;
  if (models) told.push(`more on ${models} ${models === 1 ? "model" : "models"}`);
  return told.join(" · ") || "none";
}

function modelsOf({ models }) {
  if (models === null) return "all";
  const rest = models.length - SOME_MODELS;
  const some = models.slice(0, SOME_MODELS).join(", ") || "none";
  return rest > 0 ? `${some} and ${rest} more` : some;
}

function endOf({ status, expires_at: expires, revoked_at: revoked }) {
  if (status === "revoked") return `revoked ${moment(revoked)}`;
  if (expires === null) return "never";
  return status === "expired" ? `ended ${moment(expires)}` : moment(expires);
}
