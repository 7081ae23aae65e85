// One message of a conversation, and what can be done with it.

import { costOf } from "./cost.js";
import { Component, CopyButton, createRef, html } from "./view.js";
import { markdown } from "./markdown.js";

/** A text in Markdown. While it grows it is drawn at most once a frame, by whoever holds it. */
class Markdown extends Component {
  place = createRef();

  componentDidMount() {
    this.draw();
  }

  componentDidUpdate(before) {
    if (before.text !== this.props.text) this.draw();
  }

  draw() {
    this.place.current.replaceChildren(markdown(this.props.text));
  }

  render() {
    return html`<div class="text" ref=${this.place}></div>`;
  }
}

/** What was measured of an answer, in words; with its cost, where its model has a price. */
export function figuresOf(answer, pricing) {
  const told = [];
  const tokens = answer.usage?.completion_tokens;
  if (tokens !== undefined) {
    const about = answer.usage.estimated ? "about " : "";
    told.push(`${about}${tokens} tokens`, `prompt ${answer.usage.prompt_tokens}`);
  }
  if (answer.first !== null) {
    told.push(`first after ${((answer.first - answer.asked) / 1000).toFixed(2)} s`);
  }
  const speed = answer.tokensPerSecond;
  if (speed !== null) told.push(`${speed.toFixed(1)} tokens/s`);
  const cost = answer.usage ? costOf(pricing, answer.usage) : "";
  if (cost) told.push(`${answer.usage.estimated ? "about " : ""}${cost}`);
  if (answer.finishReason === "length") told.push("cut by max_tokens or the context");
  if (answer.resumed) told.push("gone on with after a lost connection");
  return told.join(" · ");
}

/** A message. `actions` are `{onEdit, onRegenerate}`, each null where it can't be done now. */
export function Message({ message, isGrowing, notice, actions }) {
  const { role, content, images = [], reasoning, toolCalls = [], model, figures, error } = message;
  const name = role === "user" ? "You" : model || "Answer";
  return html`<article class=${`message ${role}`} aria-busy=${isGrowing ? "true" : "false"}>
    <h2>${name}</h2>
    ${reasoning && html`<details class="reasoning">
      <summary>${isGrowing && !content ? "Reasoning…" : "Reasoning"}</summary>
      <${Markdown} text=${reasoning} />
    </details>`}
    ${images.length > 0 && html`<ul class="images">
      ${images.map((image) => html`<li key=${image.id}>${shown(image)}</li>`)}
    </ul>`}
    ${role === "assistant"
      ? html`<${Markdown} text=${content} />`
      : content && html`<div class="text plain">${content}</div>`}
    ${toolCalls.map((call) => html`<section class="tool-call" aria-label=${`Calls ${call.name}`}>
      <p>Calls <code>${call.name}</code></p>
      <pre tabindex="0" role="region" aria-label="Arguments">${pretty(call.arguments)}</pre>
    </section>`)}
    ${isGrowing && !content && !reasoning && html`<p class="waiting">…</p>`}
    ${notice && html`<p class="notice">${notice}</p>`}
    ${error && html`<p class="error">${error}</p>`}
    ${figures && html`<p class="figures">${figures}</p>`}
    <div class="actions">
      ${content && !isGrowing && html`<${CopyButton} label="Copy" text=${() => content} />`}
      ${actions.onEdit && button("Edit", actions.onEdit)}
      ${actions.onRegenerate
        && button(error ? "Try again" : "Regenerate", actions.onRegenerate)}
    </div>
  </article>`;
}

const shown = ({ url, alt }) => url
  ? html`<img src=${url} alt=${alt || "An image without a description"} />`
  : html`<span class="hint">An image that isn't kept any more${alt && `: ${alt}`}</span>`;

const button = (label, onClick) =>
  html`<button type="button" class="quiet" onClick=${onClick}>${label}</button>`;

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // cut, or still growing
  }
}
