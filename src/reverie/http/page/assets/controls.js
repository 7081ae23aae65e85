// What a request may say beside its messages: a field for each, with its default and its meaning.

import { html } from "./view.js";

/** The controls of the API's own page. `usual` is what the API takes where a request says nothing
 * of it and its model has no default of its own. */
export const MAIN = [
  { name: "temperature", usual: 0.7, min: 0, max: 2, step: 0.1,
    meaning: "How freely tokens are chosen; 0 always takes the likeliest." },
  { name: "max_tokens", usual: 256, min: 1, max: 2147483647, step: 1,
    meaning: "The most tokens that the answer may have." },
  { name: "top_p", usual: 1, min: 0.01, max: 1, step: 0.01,
    meaning: "Choose among the likeliest tokens that together have this probability." },
  { name: "top_k", usual: -1, min: -1, max: 2147483647, step: 1,
    meaning: "Choose among this many of the likeliest tokens; −1 is off." },
  { name: "stream", initial: true, type: "boolean",
    meaning: "Show tokens as they come. Off, as the API has it unless asked: all at the end." },
];

/** The rarer ones, which only a model may have a default for. */
export const MORE = [
  { name: "min_p", min: 0, max: 1, step: 0.01,
    meaning: "Leave out tokens below this part of the likeliest one's probability; 0 is off." },
  { name: "seed", min: -9007199254740991, max: 9007199254740991, step: 1,
    meaning: "The same seed gives the same answer, as far as the engine can; empty is random." },
  { name: "stop", type: "lines",
    meaning: "The answer ends before any of these, one a line, at most four." },
  { name: "presence_penalty", min: -2, max: 2, step: 0.1,
    meaning: "Above 0: less of what was said at all; 0 is off." },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.1,
    meaning: "Above 0: less of what was said often; 0 is off." },
  { name: "repetition_penalty", min: 0.1, max: 10, step: 0.05,
    meaning: "Above 1: fewer repetitions; 1 is off. Not every engine has it." },
  { name: "reasoning_effort", type: "choice",
    choices: ["", "none", "minimal", "low", "medium", "high", "xhigh"],
    meaning: "How long a model that reasons should do so; empty leaves it to the model." },
];

const ALL = [...MAIN, ...MORE];

/** What a control holds that nobody has touched: nothing, save for the stream. */
const initialOf = ({ initial = "" }) => initial;

/** What holds for a control that is left alone; undefined if nothing does. */
const defaultOf = ({ name, usual }, own) => own[name] ?? usual;

/** The type of what a control holds that is set. */
const typeOf = ({ type = "number" }) => (type === "boolean" || type === "number" ? type : "string");

const VERSION = 2;

/** What is kept of settings. */
export const toKeep = (settings) => ({ version: VERSION, values: settings });

/** Settings from what was kept, as far as it is what the controls hold: anything may stand there.
 * The first version kept, and sent, the API's defaults as values. */
export function fromKept(kept) {
  const values = (kept.version === VERSION ? kept.values : kept) ?? {};
  const isSet = (control) => {
    const value = values[control.name];
    return typeOf(control) === typeof value && (kept.version === VERSION || value !== control.usual);
  };
  return Object.fromEntries(
    ALL.map((one) => [one.name, isSet(one) ? values[one.name] : initialOf(one)]),
  );
}

/** The fields of a request: those that are set. `own` are the defaults of the model itself.
 *
 * Some of these hold together or not at all. So where one of them is set to something else, the
 * others are sent, too: what the page shows is what holds. */
export function fieldsOf(settings, own = {}) {
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
  return Object.keys(own).some((name) => name in fields) ? { ...own, ...fields } : fields;
}

/** The most tokens that an answer may have, whoever says so. */
export const maxTokensOf = (settings, own = {}) =>
  settings.max_tokens || defaultOf(MAIN.find(({ name }) => name === "max_tokens"), own);

/** All controls, the rarer ones folded away. `own` are the defaults of the model itself;
 * `onChange(name, value)` is told of each change. */
export const Controls = ({ settings, own, onChange }) => html`
  ${MAIN.map((control) => field(control, settings, own, onChange))}
  <details>
    <summary>More</summary>
    ${MORE.map((control) => field(control, settings, own, onChange))}
  </details>
`;

function field(control, settings, own, onChange) {
  const { name, type, meaning } = control;
  const id = `control-${name}`;
  const reset = () => {
    onChange(name, initialOf(control));
    document.getElementById(id).focus(); // the button goes
  };
  return html`<div class="control" key=${name}>
    <div class="row title">
      <label for=${id}><code>${name}</code></label>
      ${settings[name] !== initialOf(control) && html`<button type="button" class="quiet"
        onClick=${reset}>Reset<span class="off-screen"> ${name}</span></button>`}
    </div>
    ${input(control, id, settings[name], defaultOf(control, own), (value) => onChange(name, value))}
    <p id=${`${id}-meaning`} class="hint">
      ${meaning} ${type !== "boolean" && told(control, own)}
    </p>
  </div>`;
}

/** A control's default, in words. */
function told(control, own) {
  const value = defaultOf(control, own);
  if (value === undefined) return "Default: not set.";
  return `Default: ${value}${control.name in own ? ", this model's own" : ""}.`;
}

function input({ type, min, max, step, choices }, id, value, usual, onChange) {
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
    min=${min} max=${max} step=${step} placeholder=${usual} />`;
}
