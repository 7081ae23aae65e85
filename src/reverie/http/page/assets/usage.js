// The view "Usage".

import { ForOperator } from "./operator.js";
import { html } from "./view.js";

export const Usage = () => html`<${ForOperator} title="Usage">${() => html`<p>…</p>`}<//>`;
