// What all keys have used, for the server's operator.

import { admin, queryOf, sentence, servedModels } from "./api.js";
import { PeriodField, THIS_MONTH, daysOf } from "./periods.js";
import { LastRequests } from "./last_requests.js";
import { Days, Totals, UsageTable } from "./usage_report.js";
import { Component, html } from "./view.js";

const BY = [["key", "Key"], ["tag", "Tag"], ["model", "Model"], ["day", "Day"]];

export class AllUsage extends Component {
  state = {
    period: THIS_MONTH,
    by: "key",
    then: "",
    filters: { key: "", model: "", tag: "" },
    shown: null, // {report, days}: what the server answered last
    models: [],
    problem: "",
    isBusy: true,
  };

  componentDidMount() {
    this.load();
    this.loadModels();
  }

  componentWillUnmount() {
    this.loading?.abort();
  }

  async loadModels() {
    this.setState({ models: await servedModels() });
  }

  change(changed) {
    this.setState(changed, () => this.load());
  }

  filter = (event) => {
    const { name, value } = event.target;
    this.change({ filters: { ...this.state.filters, [name]: value.trim() } });
  };

  load = async () => {
    this.loading?.abort();
    const { signal } = (this.loading = new AbortController());
    const { period, by, then, filters } = this.state;
    const asked = { ...daysOf(period), ...filters };
    const ask = (dimensions) =>
      admin(`usage?${queryOf({ ...asked, by: dimensions })}`, undefined, { signal });
    this.setState({ isBusy: true });
    try {
      const groups = then && then !== by ? `${by},${then}` : by;
      const [report, days] = await Promise.all([ask(groups), ask("day")]);
      this.setState({ shown: { report, days, filters: { ...filters } }, problem: "", isBusy: false });
    } catch (error) {
      if (signal.aborted || this.props.onRefused(error)) return;
      this.setState({ problem: sentence(error), isBusy: false });
    }
  };

  render({ onRefused }, { shown, problem, isBusy }) {
    return html`
      ${this.choices()}
      ${problem && html`<p role="alert" class="error">${problem}</p>`}
      ${shown === null
        ? !problem && html`<p class="waiting">…</p>`
        : html`<section aria-label="Usage" aria-busy=${String(isBusy)}>
          ${report(shown)}
          <${LastRequests} onRefused=${onRefused} filters=${shown.filters} />
        </section>`}
    `;
  }

  choices() {
    const { period, by, then, filters, models } = this.state;
    const options = (list) => list.map(([value, label]) => html`
      <option key=${value} value=${value}>${label}</option>`);
    const field = (name, label, attributes) => html`<label>${label}
      <input type="search" name=${name} value=${filters[name]} onChange=${this.filter}
        autocomplete="off" ...${attributes} /></label>`;
    return html`<form class="filters" aria-label="What is shown"
      onSubmit=${(event) => { event.preventDefault(); this.load(); }}>
      <${PeriodField} period=${period} onChange=${(chosen) => this.change({ period: chosen })} />
      <label>By
        <select value=${by} onChange=${(event) => this.change({ by: event.target.value })}>
          ${options(BY)}
        </select></label>
      <label>And by
        <select value=${then} onChange=${(event) => this.change({ then: event.target.value })}>
          ${options([["", "–"], ...BY.filter(([value]) => value !== by)])}
        </select></label>
      ${field("key", "Only this key", { placeholder: "name or id" })}
      ${field("model", "Only this model", { list: "served-models" })}
      ${field("tag", "Only this tag")}
      <datalist id="served-models">
        ${models.map((model) => html`<option key=${model} value=${model}></option>`)}
      </datalist>
      <button type="submit">Refresh</button>
    </form>`;
  }
}

const LABELS = Object.fromEntries(BY.map(([name, label]) => [name, label.toLowerCase()]));

function report({ report: { by, rows, total, since, until }, days }) {
  return html`
    <${Totals} total=${total} />
    <${Days} rows=${days.rows} since=${since} until=${until} />
    <${UsageTable} title=${`By ${by.map((name) => LABELS[name]).join(" and ")}`} by=${by}
      rows=${rows} file=${`usage-${since}-${until}`} />
    ${by.includes("tag") && html`<p class="hint">
      A key with several tags counts in the row of each, so the rows don't add up to the sums above.
    </p>`}
  `;
}
