// The form that makes a key, or changes one.

import { ApiError, admin, sentence } from "./api.js";
import { LIMITS, changesOf, newKey, valuesOf } from "./key_fields.js";
import { Dialog, moment } from "./parts.js";
import { Component, createRef, html } from "./view.js";

const HIGHEST = 2 ** 31 - 1;

const ENDS = [
  ["never", "Never"],
  ["30d", "30 days from now"],
  ["90d", "90 days from now"],
  ["365d", "A year from now"],
  ["on a day", "On a day…"],
];

/** A dialog. `keyToChange` is null for a new key. `models` are the names of what is served.
 * `onSaved` gets what the server answered; `onClose` is told however the dialog was closed. */
export class KeyForm extends Component {
  form = createRef();

  constructor({ keyToChange }) {
    super();
    this.state = { values: valuesOf(keyToChange), problem: "", field: null, isBusy: false };
  }

  set = (name, value) =>
    this.setState(({ values }) => ({ values: { ...values, [name]: value } }));

  take = (event) => this.set(event.target.name, event.target.value);

  check = (model, isChecked) => {
    const models = new Set(this.state.values.models);
    if (isChecked) models.add(model);
    else models.delete(model);
    this.set("models", models);
  };

  setLimit = (model, name, value) => {
    const { modelLimits } = this.state.values;
    this.set("modelLimits", { ...modelLimits, [model]: { ...modelLimits[model], [name]: value } });
  };

  save = async (event, close) => {
    event.preventDefault();
    if (this.state.isBusy) return;
    this.setState({ isBusy: true, problem: "", field: null });
    const { keyToChange, onSaved, onRefused } = this.props;
    try {
      const saved = keyToChange === null
        ? await admin("keys", newKey(this.state.values))
        : await this.change(keyToChange);
      close();
      onSaved(saved);
    } catch (error) {
      if (!onRefused(error)) this.show(error);
    }
  };

  change(key) {
    const changes = changesOf(key, this.state.values);
    if (!Object.keys(changes).length) return key;
    return admin(`keys/${key.id}`, changes, { method: "PATCH" });
  }

  /** Shows an error beside the field that it names, and goes there. */
  show(error) {
    const [named] = ((error instanceof ApiError && error.param) || "").split(".");
    const isHere = (this.form.current?.elements[named] ?? null) !== null;
    const field = named && isHere ? named : null;
    const problem = field === null ? sentence(error) : withoutName(error);
    this.setState({ isBusy: false, problem, field }, () => {
      const place = this.form.current?.querySelector(`[name="${field}"]`);
      place?.closest("details")?.setAttribute("open", "");
      (place?.matches("fieldset") ? place.querySelector("input") : place)?.focus();
    });
  }

  render({ keyToChange, onClose }, { values, problem, field, isBusy }) {
    const isNew = keyToChange === null;
    const title = isNew ? "New key" : `Change ${keyToChange.name}`;
    return html`<${Dialog} title=${title} onClose=${onClose}>
      ${(close) => html`
        <form class="key-form" ref=${this.form} onSubmit=${(event) => this.save(event, close)}>
          ${this.fields(values)}
          <p role="alert" class="error">${field === null && problem}</p>
          <div class="row">
            <button type="submit" class="main" aria-disabled=${String(isBusy)}>
              ${isNew ? "Make the key" : "Save"}
            </button>
            <button type="button" onClick=${close}>Cancel</button>
          </div>
        </form>
      `}
    <//>`;
  }

  fields(values) {
    return html`
      ${this.field("name", "Name", "What lists and log lines call it.",
        { required: true, maxlength: 200, autocomplete: "off" })}
      ${this.field("tags", "Tags", "Labels to find it and to sum up its use by, with commas "
        + "between them, such as team:search, prod.", { autocomplete: "off" })}
      ${this.models(values)}
      <div class="fields">
        ${LIMITS.map(({ name, label, meaning }) => this.field(name, label, meaning,
          { type: "number", min: 1, max: HIGHEST, step: 1, inputmode: "numeric" }))}
        ${this.field("budget", "Budget", "What it may spend in a day or a month (UTC), such as "
          + "10USD/month. Empty: no limit.", { autocomplete: "off" })}
        ${this.ends(values)}
        ${this.field("weight", "Weight", "Its share of a full server, beside other keys', "
          + "1 to 1,000.", { type: "number", min: 1, max: 1000, step: 1, required: true })}
      </div>
      ${this.modelLimits(values)}
    `;
  }

  /** What ties a field to what is said of it. */
  described(name) {
    const isWrong = this.state.field === name;
    const described = [isWrong && `key-${name}-problem`, `key-${name}-meaning`];
    return {
      name,
      "aria-describedby": described.filter(Boolean).join(" "),
      "aria-invalid": isWrong ? "true" : undefined,
    };
  }

  said(name, meaning) {
    return html`
      ${this.state.field === name
        && html`<p id=${`key-${name}-problem`} class="error">${this.state.problem}</p>`}
      <p id=${`key-${name}-meaning`} class="hint">${meaning}</p>
    `;
  }

  field(name, label, meaning, attributes) {
    return html`<div class="control" key=${name}>
      <label for=${`key-${name}`}>${label}</label>
      <input id=${`key-${name}`} ...${attributes} ...${this.described(name)}
        value=${this.state.values[name]} onInput=${this.take} />
      ${this.said(name, meaning)}
    </div>`;
  }

  /** The models that are served, and those that the key names besides. */
  modelNames({ models, modelLimits }) {
    const named = [...this.props.models, ...models, ...Object.keys(modelLimits)];
    return [...new Set(named)].sort();
  }

  models(values) {
    const chooseAll = (event) => this.set("isForAll", event.target.checked);
    const isServed = new Set(this.props.models);
    return html`<fieldset class="control" ...${this.described("models")}>
      <legend>Models</legend>
      <label class="choice"><input type="checkbox" checked=${values.isForAll}
        onChange=${chooseAll} /> All, those to come included</label>
      ${!values.isForAll && html`<div class="choices">
        ${this.modelNames(values).map((model) => html`<label key=${model} class="choice">
          <input type="checkbox" checked=${values.models.has(model)}
            onChange=${(event) => this.check(model, event.target.checked)} />
          <span>${model}</span>
          ${!isServed.has(model) && html`<span class="hint">not served</span>`}
        </label>`)}
      </div>`}
      ${this.said("models", "Those that it may use.")}
    </fieldset>`;
  }

  ends({ ends, day }) {
    const key = this.props.keyToChange;
    const asItIs = key?.expires_at ? [["as it is", `As it is: ${moment(key.expires_at)}`]] : [];
    const isDay = ends === "on a day";
    const described = this.described("expires_at");
    return html`<div class="control" key="ends">
      <label for="key-ends">Ends</label>
      <select id="key-ends" ...${described} value=${ends}
        onChange=${(event) => this.set("ends", event.target.value)}>
        ${[...asItIs, ...ENDS].map(([value, label]) => html`
          <option key=${value} value=${value}>${label}</option>`)}
      </select>
      ${isDay && html`<input type="date" name="day" aria-label="Day on which it ends" required
        value=${day} onInput=${this.take} />`}
      ${this.said("expires_at", "Requests after that are refused. A day counts from its first "
        + "moment (UTC).")}
    </div>`;
  }

  modelLimits(values) {
    const names = this.modelNames(values);
    return html`<details>
      <summary>Limits on single models</summary>
      <fieldset class="control plain" ...${this.described("model_limits")}>
        <legend class="off-screen">Limits on single models</legend>
        ${this.said("model_limits", "They hold beside those above. Empty: no limit.")}
        ${names.map((model) => html`<div key=${model} class="model-limits">
          <p class="name">${model}</p>
          ${LIMITS.map(({ name, unit }) => html`<label key=${name}>
            <input type="number" min="1" max=${HIGHEST} step="1"
              aria-label=${`${model}: ${unit}`} value=${values.modelLimits[model]?.[name] ?? ""}
              onInput=${(event) => this.setLimit(model, name, event.target.value)} />
            <span class="hint" aria-hidden="true">${unit}</span>
          </label>`)}
        </div>`)}
        ${!names.length && html`<p class="hint">No model is served.</p>`}
      </fieldset>
    </details>`;
  }
}

/** The server's sentence without the field's name, which stands beside it. */
function withoutName({ message, param }) {
  const rest = message.startsWith(`${param}: `) ? message.slice(param.length + 2) : message;
  return rest.charAt(0).toUpperCase() + rest.slice(1);
}
