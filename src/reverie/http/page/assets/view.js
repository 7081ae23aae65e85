// What every part of the page draws with: preact's elements, written as htm templates.

import { Component, createRef, h, render } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

export { Component, createRef, render };
export const html = htm.bind(h);

/** Copies text; true if it is in the clipboard. Browsers offer their API only over https and on
 * this machine, so elsewhere the old way is gone. */
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not allowed: the old way may be
    }
  }
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "off-screen";
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return copied;
}

/** A button that copies what `text()` gives, and says so. */
export class CopyButton extends Component {
  state = { said: "" };

  copy = async () => {
    const copied = await copyText(this.props.text());
    this.setState({ said: copied ? "Copied" : "Not copied" });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.setState({ said: "" }), 2000);
  };

  componentWillUnmount() {
    clearTimeout(this.timer);
  }

  render({ label }) {
    return html`<button type="button" class="quiet" onClick=${this.copy}>
      <span aria-live="polite">${this.state.said || label}</span>
    </button>`;
  }
}
