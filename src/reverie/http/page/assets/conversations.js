// The list of conversations: choose, delete, export, import.

import { fetchImages } from "./kept_images.js";
import { Component, createRef, html } from "./view.js";
import { saveFile } from "./files.js";
import { exportText, importText, titleOf } from "./store.js";

/** `onChoose`, `onDelete` get a conversation, `onImport` a list of new ones. */
export class Conversations extends Component {
  state = { error: "" };
  file = createRef();

  exportAll = async () => {
    await Promise.all(this.props.conversations.map(fetchImages));
    saveFile("conversations.json", "application/json", exportText(this.props.conversations));
  };

  importFile = async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try {
      this.props.onImport(importText(await file.text()));
      this.setState({ error: "" });
    } catch (error) {
      this.setState({ error: error.message });
    }
    this.file.current.value = ""; // so that the same file can be chosen again
  };

  render({ conversations, current, onChoose, onDelete }) {
    return html`
      <h2>Conversations</h2>
      <ul class="conversations">
        ${conversations.map((one) => html`<li key=${one.id} class="row">
          <button type="button" class="title" onClick=${() => onChoose(one)}
            aria-current=${one.id === current.id ? "true" : undefined}>${titleOf(one)}</button>
          <button type="button" class="quiet" onClick=${() => onDelete(one)}
            aria-label=${`Delete: ${titleOf(one)}`}>Delete</button>
        </li>`)}
      </ul>
      <p class="hint">They are kept in this browser only.</p>
      <div class="row">
        <button type="button" onClick=${this.exportAll}>Export</button>
        <button type="button" onClick=${() => this.file.current.click()}>Import</button>
        <input type="file" accept="application/json,.json" hidden aria-label="Import a file"
          ref=${this.file} onChange=${this.importFile} />
      </div>
      <p role="alert" class="error">${this.state.error}</p>
    `;
  }
}
