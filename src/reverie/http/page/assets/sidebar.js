// The panel beside the chat: what its conversation's model is told first, and all settings.

import { BASE, apiKey } from "./api.js";
import { Controls } from "./controls.js";
import { CopyAs } from "./copy_as.js";
import { KeyField } from "./key.js";
import { html } from "./view.js";

/** `model` is one of `models()`, `request` the body that is on screen. `onSystem`, `onSetting` and
 * `onKey` are told of what changes. */
export const Sidebar = ({ system, model, settings, request, onSystem, onSetting, onKey }) => html`
  <h2>Settings</h2>
  <div class="control">
    <label for="system">System prompt</label>
    <textarea id="system" rows="3" value=${system} aria-describedby="system-meaning"
      onInput=${(event) => onSystem(event.target.value)}></textarea>
    <p id="system-meaning" class="hint">What this conversation's model is told first.</p>
  </div>
  <${Controls} settings=${settings} own=${model.defaults} onChange=${onSetting} />
  <${KeyField} onKey=${onKey} />
  <${CopyAs} base=${BASE} hasKey=${apiKey.get() !== ""} request=${request} />
`;
