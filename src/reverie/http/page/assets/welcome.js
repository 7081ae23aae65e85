// What an empty conversation shows: a few questions to begin with.

import { html } from "./view.js";

/** Such as the default model, which is small, answers well. */
const QUESTIONS = [
  "What is photosynthesis?",
  "Show me a Python function that reverses a string.",
  "Write a polite e-mail that asks for a day off.",
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
