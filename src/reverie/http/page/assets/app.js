// Starts the page.

import { Chat } from "./chat.js";
import { html, render } from "./view.js";

render(html`<${Chat} />`, document.getElementById("app"));
