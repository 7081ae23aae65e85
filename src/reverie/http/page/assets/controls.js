// What a request may say beside its messages: a field for each, with its default and its meaning.

import { html } from "./view.js";

/** The controls of the API's own page, which every request carries. */
export const MAIN = [
  { name: "temperature", initial: 0.7, min: 0, max: 2, step: 0.1,
    meaning: "How freely tokens are chosen; 0 always takes the likeliest." },
  { name: "max_tokens", initial: 256, min: 1, max: 2147483647, step: 1,
    meaning: "The most tokens that the answer may have." },
  { name: "top_p", initial: 1, min: 0.01, max: 1, step: 0.01,
    meaning: "Choose among the likeliest tokens that together have this probability." },
  { name: "top_k", initial: -1, min: -1, max: 2147483647, step: 1,
    meaning: "Choose among this many of the likeliest tokens; −1 is off." },
  { name: "stream", initial: true, type: "boolean",
    meaning: "Show tokens as they come. Off, as the API has it unless asked: all at the end." },
];

/** Those that a request carries only where they are set. */
export const MORE = [
  { name: "min_p", initial: "", min: 0, max: 1, step: 0.01,
    meaning: "Leave out tokens below this part of the likeliest one's probability; 0 is off." },
  { name: "seed", initial: "", min: -9007199254740991, max: 9007199254740991, step: 1,
    meaning: "The same seed gives the same answer, as far as the engine can; empty is random." },
  { name: "stop", initial: "", type: "lines",
    meaning: "The answer ends before any of these, one a line, at most four." },
  { name: "presence_penalty", initial: "", min: -2, max: 2, step: 0.1,
    meaning: "Above 0: less of what was said at all; 0 is off." },
  { name: "frequency_penalty", initial: "", min: -2, max: 2, step: 0.1,
    meaning: "Above 0: less of what was said often; 0 is off." },
  { name: "repetition_penalty", initial: "", min: 0.1, max: 10, step: 0.05,
    meaning: "Above 1: fewer repetitions; 1 is off. Not every engine has it." },
  { name: "reasoning_effort", initial: "", type: "choice",
    choices: ["", "none", "minimal", "low", "medium", "high", "xhigh"],
    meaning: "How long a model that reasons should do so; empty leaves it to the model." },
];

const ALL = [...MAIN, ...MORE];

/** Settings that were kept, or what stands for those that weren't. */
export const completed = (kept) =>
  Object.fromEntries(ALL.map(({ name, initial }) => [name, kept[name] ?? initial]));

/** The fields of a request. A field that was emptied is left out: its default holds. */
export function fieldsOf(settings) {
  const fields = {};
  for (const { name, type } of ALL) {
    const value = settings[name];
    if (type === "lines") {
      const lines = value.split("\n").filter(Boolean);
      if (lines.length) fields[name] = lines;
    } else if (value !== "") {
      fields[name] = value;
    }
  }
  return fields;
}

/** All controls, the rarer ones folded away. `onChange(name, value)` is told of each change. */
export const Controls = ({ settings, onChange }) => html`
  ${MAIN.map((control) => field(control, settings, onChange))}
  <details>
    <summary>More</summary>
    ${MORE.map((control) => field(control, settings, onChange))}
  </details>
`;

function field(control, settings, onChange) {
  const { name, initial, type, meaning } = control;
  const id = `control-${name}`;
  const told = initial === "" ? "not set" : { true: "on", false: "off" }[initial] ?? initial;
  return html`<div class="control" key=${name}>
    <label for=${id}><code>${name}</code></label>
    ${input(control, id, settings[name], (value) => onChange(name, value))}
    <p id=${`${id}-meaning`} class="hint">
      ${meaning}${type === "boolean" ? " " : html` Default: ${told}.`}
    </p>
  </div>`;
}

function input({ type, min, max, step, choices }, id, value, onChange) {
  const shared = { id, "aria-describedby": `${id}-meaning` };
  if (type === "boolean") {
    const change = (event) => onChange(event.target.checked);
    return html`<input ...${shared} type="checkbox" checked=${value} onChange=${change} />`;
  }
  const take = (event) => onChange(event.target.value);
  if (type === "lines") {
    return html`<textarea ...${shared} rows="2" value=${value} onInput=${take}></textarea>`;
  }
  if (type === "choice") {
    return html`<select ...${shared} value=${value} onChange=${take}>
      ${choices.map((one) => html`<option value=${one}>${one || "–"}</option>`)}
    </select>`;
  }
  // While a number is typed the field may hold none, such as "-": then what was there holds.
  const number = (event) => {
    const { value: typed, validity } = event.target;
    if (!validity.badInput) onChange(typed === "" ? "" : Number(typed));
  };
  return html`<input ...${shared} type="number" value=${value} onInput=${number}
    min=${min} max=${max} step=${step} />`;
}
