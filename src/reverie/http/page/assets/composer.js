// Where a message is written.

import { html } from "./view.js";

/** Enter sends, Shift+Enter begins a new line. While an answer is written, "Stop" stands in the
 * place of "Send", and the next message can be written already. */
export function Composer(props) {
  const { draft, isEditing, isBusy, fieldRef, onDraft, onSend, onStop, onCancelEdit } = props;
  const submit = (event) => {
    event.preventDefault();
    onSend();
  };
  const onKeyDown = (event) => {
    // While an input method composes a word, Enter is its own.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`<form class="composer" onSubmit=${submit}>
    <label for="message">${isEditing ? "Edit your message" : "Your message"}</label>
    <textarea id="message" rows="2" ref=${fieldRef} value=${draft} onKeyDown=${onKeyDown}
      onInput=${(event) => onDraft(event.target.value)}
      aria-describedby="message-keys"></textarea>
    <div class="row">
      <p id="message-keys" class="hint">
        ${isEditing ? "What came after it is replaced. " : ""}Enter sends, Shift+Enter is a new
        line, Escape stops the answer.
      </p>
      ${isEditing && html`<button type="button" onClick=${onCancelEdit}>Don't edit</button>`}
      ${isBusy
        ? html`<button key="stop" type="button" class="main" onClick=${onStop}>Stop</button>`
        : html`<button key="send" type="submit" class="main">Send</button>`}
    </div>
  </form>`;
}
