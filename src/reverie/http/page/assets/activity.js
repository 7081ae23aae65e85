// The view "Activity".

import { ForOperator } from "./operator.js";
import { html } from "./view.js";

export const Activity = () => html`<${ForOperator} title="Activity">${() => html`<p>…</p>`}<//>`;
