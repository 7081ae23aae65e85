// The images that are attached to the message that is being written.

import { ACCEPTED } from "./images.js";
import { Component, createRef, html } from "./view.js";

/** Each image small, with a description for those who can't see it, and a way to take it off. */
export const Attachments = ({ images, onDescribe, onRemove }) => html`
  <ul class="attached" aria-label="Attached images">
    ${images.map((image, at) => html`<li key=${image.id}>
      <img src=${image.url} alt=${image.alt || `Image ${at + 1}`} />
      <div class="description">
        <label for=${`alt-${image.id}`}>Image ${at + 1} shows</label>
        <input id=${`alt-${image.id}`} type="text" maxlength="300" value=${image.alt}
          placeholder="Optional" onInput=${(event) => onDescribe(image, event.target.value)} />
      </div>
      <button type="button" class="quiet" onClick=${() => onRemove(image)}>
        Remove<span class="off-screen"> image ${at + 1}</span>
      </button>
    </li>`)}
  </ul>
`;

/** A button that asks for files. `onFiles` gets a list of them. */
export class AttachButton extends Component {
  file = createRef();

  take = (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // so that the same file can be chosen again
    if (files.length) this.props.onFiles(files);
  };

  render() {
    return html`
      <button type="button" onClick=${() => this.file.current.click()}>Attach images</button>
      <input type="file" accept=${ACCEPTED.join()} multiple hidden aria-label="Choose images"
        ref=${this.file} onChange=${this.take} />
    `;
  }
}
