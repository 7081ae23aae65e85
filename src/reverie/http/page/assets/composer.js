// Where a message is written, and images are attached to it.

import { AttachButton, Attachments } from "./attachments.js";
import { filesIn } from "./images.js";
import { html } from "./view.js";

/** Enter sends, Shift+Enter begins a new line. While an answer is written, "Stop" stands in the
 * place of "Send", and the next message can be written already. `draft` is `{content, images}`. */
export function Composer(props) {
  const { draft, refusal, canAttach, isEditing, isBusy, fieldRef } = props;
  const { onDraft, onFiles, onSend, onStop, onCancelEdit } = props;
  const submit = (event) => {
    event.preventDefault();
    onSend();
  };
  const onKeyDown = (event) => {
    // While an input method composes a word, Enter is its own.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  const onPaste = (event) => {
    // Some programs put a picture of the text beside the text.
    const { files, types } = event.clipboardData;
    if (!files.length || types.includes("text/plain")) return;
    event.preventDefault();
    onFiles(filesIn(event.clipboardData));
  };
  const describe = (image, alt) => {
    const images = draft.images.map((one) => (one === image ? { ...image, alt } : one));
    onDraft({ ...draft, images });
  };
  const remove = (image) => {
    onDraft({ ...draft, images: draft.images.filter((one) => one !== image) });
    fieldRef.current.focus(); // the button goes
  };
  return html`<form class="composer" onSubmit=${submit}>
    ${draft.images.length > 0 && html`<${Attachments} images=${draft.images}
      onDescribe=${describe} onRemove=${remove} />`}
    <p role="alert" class="error">${refusal}</p>
    <label for="message">${isEditing ? "Edit your message" : "Your message"}</label>
    <textarea id="message" rows="2" ref=${fieldRef} value=${draft.content} onKeyDown=${onKeyDown}
      onPaste=${onPaste} onInput=${(event) => onDraft({ ...draft, content: event.target.value })}
      aria-describedby="message-keys"></textarea>
    <div class="row">
      <p id="message-keys" class="hint">
        ${isEditing ? "What came after it is replaced. " : ""}Enter sends, Shift+Enter is a new
        line, Escape stops the answer.
      </p>
      ${canAttach && html`<${AttachButton} onFiles=${onFiles} />`}
      ${isEditing && html`<button type="button" onClick=${onCancelEdit}>Don't edit</button>`}
      ${isBusy
        ? html`<button key="stop" type="button" class="main" onClick=${onStop}>Stop</button>`
        : html`<button key="send" type="submit" class="main">Send</button>`}
    </div>
  </form>`;
}
