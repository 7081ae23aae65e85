// The API key: kept for this tab only, asked for when the server wants one.

import { apiKey } from "./api.js";
import { Component, createRef, html } from "./view.js";

/** What a `KeyQuestion` says of the key that was refused; nothing if none was given yet. */
export const refusalOf = ({ message }) => (apiKey.get() === "" ? "" : message);

/** The server has said that it needs a key, or another one. Each such question on the page has an
 * `id` of its own. */
export class KeyQuestion extends Component {
  field = createRef();

  componentDidMount() {
    this.field.current.focus();
  }

  submit = (event) => {
    event.preventDefault();
    const key = this.field.current.value.trim();
    if (key) this.props.onKey(key);
  };

  render({ problem, id = "asked-key" }) {
    return html`<form class="key" onSubmit=${this.submit} aria-labelledby=${`${id}-question`}>
      <h2 id=${`${id}-question`}>This server asks for an API key</h2>
      <p role="alert" class="error">${problem}</p>
      <label for=${id}>API key</label>
      <div class="row">
        <input id=${id} type="password" autocomplete="off" ref=${this.field}
          aria-describedby=${`${id}-hint`} />
        <button type="submit" class="main">Use this key</button>
      </div>
      <p id=${`${id}-hint`} class="hint">It is kept for this tab only.</p>
    </form>`;
  }
}

/** The same among the settings, to change it or to forget it. */
export class KeyField extends Component {
  field = createRef();

  submit = (event) => {
    event.preventDefault();
    this.props.onKey(this.field.current.value.trim());
    this.field.current.value = "";
  };

  render() {
    const told = apiKey.get() ? "One is set." : "None is set.";
    return html`<form class="control" onSubmit=${this.submit}>
      <label for="key">API key</label>
      <div class="row">
        <input id="key" type="password" autocomplete="off" ref=${this.field}
          aria-describedby="key-hint" />
        <button type="submit">Set</button>
      </div>
      <p id="key-hint" class="hint">${told} It is kept for this tab only; empty forgets it.</p>
    </form>`;
  }
}
