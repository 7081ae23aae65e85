// The view "Models".

import { ForOperator } from "./operator.js";
import { html } from "./view.js";

export const Models = () => html`<${ForOperator} title="Models">${() => html`<p>…</p>`}<//>`;
