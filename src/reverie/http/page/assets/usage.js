// The view "Usage": what one's own key has used, and, for the server's operator, all keys.

import { AllUsage } from "./all_usage.js";
import { ForOperator } from "./operator.js";
import { OwnUsage } from "./own_usage.js";
import { Component, html } from "./view.js";

export class Usage extends Component {
  state = { isForAll: false };

  render(_, { isForAll }) {
    const choice = (value, label) => html`<button type="button"
      aria-pressed=${String(isForAll === value)} onClick=${() => this.setState({ isForAll: value })}
      >${label}</button>`;
    return html`
      <div class="switch" role="group" aria-label="Whose use">
        ${choice(false, "Your key")}${choice(true, "All keys")}
      </div>
      ${isForAll
        ? html`<${ForOperator} key="all" title="Usage of all keys">
            ${(onRefused) => html`<${AllUsage} onRefused=${onRefused} />`}
          <//>`
        : html`<${OwnUsage} key="own" />`}
    `;
  }
}
