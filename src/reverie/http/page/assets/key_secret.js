// A key's secret, which the server tells once.

import { Dialog } from "./parts.js";
import { CopyButton, html } from "./view.js";

/** Shows a secret until it is closed. Nothing else keeps it. */
export const Secret = ({ name, secret, onClose }) => html`
  <${Dialog} title=${`The secret of ${name}`} onClose=${onClose}>
    ${(close) => html`
      <p>
        Copy it now and hand it to whoever is to use it: it <strong>can't be shown again</strong>.
        If it is lost, rotate the key.
      </p>
      <div class="secret">
        <code id="secret" tabindex="0" role="textbox" aria-readonly="true"
          aria-label="Secret">${secret}</code>
        <${CopyButton} label="Copy" text=${() => secret} />
      </div>
      <div class="row"><button type="button" class="main" onClick=${close}>Done</button></div>
    `}
  <//>
`;
