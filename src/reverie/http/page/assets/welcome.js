// What an empty conversation shows: a few questions to begin with.

import { html } from "./view.js";

const QUESTIONS = [
  "Explain in three sentences how rain forms.",
  "Write a Python function that tells whether a number is prime.",
  "List five vegetables that grow in the shade.",
];

/** `onChoose` gets a question, which isn't sent yet. */
export const Welcome = ({ onChoose }) => html`<section class="welcome" aria-label="To begin with">
  <p>Ask something, or begin with one of these:</p>
  <ul>
    ${QUESTIONS.map((question) => html`<li key=${question}>
      <button type="button" onClick=${() => onChoose(question)}>${question}</button>
    </li>`)}
  </ul>
</section>`;
