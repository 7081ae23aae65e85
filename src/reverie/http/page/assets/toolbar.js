// The chat's toolbar: which model answers, and which panels stand beside the conversation.

import { html } from "./view.js";

/** `onStart`, `onList` and `onSettings` are called by the buttons, `onModel` with a model's name. */
export function Toolbar({ model, models, showsList, showsSettings, ...calls }) {
  const { onModel, onStart, onList, onSettings } = calls;
  return html`<div class="toolbar" role="toolbar" aria-label="Chat">
    <label for="model" class="off-screen">Model</label>
    <select id="model" value=${model} onChange=${(event) => onModel(event.target.value)}>
      ${models.map((one) => html`<option key=${one.id} value=${one.id}>${optionOf(one)}</option>`)}
    </select>
    <button type="button" onClick=${onStart}>${icon("M8 3v10M3 8h10")}
      <span class="words">New chat</span></button>
    <button type="button" aria-expanded=${String(showsList)} aria-controls="list"
      onClick=${onList}>${icon("M3 4h10M3 8h10M3 12h6")}
      <span class="words">Conversations</span></button>
    <button type="button" aria-expanded=${String(showsSettings)} aria-controls="settings"
      onClick=${onSettings}>${icon("M3 5h5M12 5h1M10 3v4M3 11h1M8 11h5M6 9v4")}
      <span class="words">Settings</span></button>
  </div>`;
}

/** On a small screen it stands for the words, which a screen reader still has. */
const icon = (path) => html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">
  <path d=${path} /></svg>`;

function optionOf({ id, aliasOf, loaded }) {
  const name = aliasOf === null ? id : `${id} = ${aliasOf}`;
  return loaded ? `${name} · ready` : `${name} · loads when asked`;
}
