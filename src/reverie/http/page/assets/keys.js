// The view "Keys".

import { ForOperator } from "./operator.js";
import { html } from "./view.js";

export const Keys = () => html`<${ForOperator} title="Keys">${() => html`<p>…</p>`}<//>`;
