// What the holder of a key may use, has used, and has left.

import { ApiError, apiKey, call, queryOf, sentence } from "./api.js";
import { KeyQuestion, refusalOf } from "./key.js";
import { Meter, moment, span, whole } from "./parts.js";
import { PeriodField, THIS_MONTH, daysOf } from "./periods.js";
import { Days, Totals, UsageTable } from "./usage_report.js";
import { summed, summedBy } from "./usage_sums.js";
import { Component, html } from "./view.js";

export class OwnUsage extends Component {
  state = {
    period: THIS_MONTH,
    usage: null,
    problem: "",
    keyProblem: null, // why the key was refused when the server asks for one; else null
    isBusy: true,
  };

  componentDidMount() {
    this.load();
  }

  componentWillUnmount() {
    this.loading?.abort();
  }

  load = async () => {
    this.loading?.abort();
    const { signal } = (this.loading = new AbortController());
    const query = queryOf({ by: "day,model", ...daysOf(this.state.period) });
    this.setState({ isBusy: true });
    try {
      const usage = await (await call(`v1/usage?${query}`, { signal })).json();
      this.setState({ usage, problem: "", keyProblem: null, isBusy: false });
    } catch (error) {
      if (signal.aborted) return;
      const asksForKey = error instanceof ApiError && error.status === 401;
      this.setState(asksForKey
        ? { keyProblem: refusalOf(error), usage: null, problem: "", isBusy: false }
        : { problem: sentence(error), isBusy: false });
    }
  };

  choose = (period) => this.setState({ period }, this.load);

  setKey = (key) => {
    apiKey.set(key);
    this.load();
  };

  render(_, { period, usage, problem, keyProblem, isBusy }) {
    return html`
      <h2 tabindex="-1">Usage of your key</h2>
      ${problem && html`<p role="alert" class="error">${problem}</p>`}
      ${keyProblem !== null && html`
        <${KeyQuestion} id="own-key" problem=${keyProblem} onKey=${this.setKey} />`}
      ${usage === null && !problem && keyProblem === null && html`<p class="waiting">…</p>`}
      ${usage !== null && html`<section aria-label="Usage" aria-busy=${String(isBusy)}>
        <${Holder} usage=${usage} />
        ${usage.rows && html`
          <form class="filters" aria-label="What is shown"
            onSubmit=${(event) => { event.preventDefault(); this.load(); }}>
            <${PeriodField} period=${period} onChange=${this.choose} />
            <button type="submit">Refresh</button>
          </form>
          <${Totals} total=${summed(usage.rows)} />
          <${Days} rows=${usage.rows} since=${usage.since} until=${usage.until} />
          <${UsageTable} title="By model" by=${["model"]} rows=${summedBy(usage.rows, "model")}
            file=${`usage-${usage.since}-${usage.until}`} />
        `}
      </section>`}
    `;
  }
}

/** Whose key it is, and what is left of its limits. */
function Holder({ usage: { key, left = {}, rows } }) {
  if (!rows) {
    return html`<p class="notice">This server has no store, so it counts nobody's use.</p>`;
  }
  if (key.id === "anonymous") {
    return html`<p class="notice">
      This server has no keys: it answers everyone on its own machine, without limits. This is what
      they have all used.
    </p>`;
  }
  const isStored = key.status !== undefined;
  const meters = isStored ? metersOf(key, left) : [];
  return html`<div class="card holder">
    <p class="row"><strong class="name" dir="auto">${key.name}</strong>
      ${isStored && html`<code class="hint">${key.id}</code>`}
      ${(key.tags ?? []).map((tag) => html`<span class="tag" dir="auto" key=${tag}
        >${tag}</span>`)}
    </p>
    ${meters.length > 0
      ? html`<ul class="meters" aria-label="Limits">
          ${meters.map(({ name, ...meter }) => html`<li key=${name}>
            <span>${name}</span><${Meter} label=${name} ...${meter} />
          </li>`)}
        </ul>`
      : html`<p class="hint">This key has no limits of its own.</p>`}
    ${isStored && html`<p class="hint">${termsOf(key)}</p>`}
  </div>`;
}

/** A meter for each limit: `{name, value, most, text}`, where `value` is what is used. */
function metersOf(key, left) {
  const meters = [];
  const add = (name, most, free, note = "") => {
    if (most === null || free === undefined) return;
    const text = `${whole(free)} of ${whole(most)} left${note}`;
    meters.push({ name, most, value: most - free, text });
  };
  const whenWhole = (limit) => (limit?.resets_in_s ? `, all in ${span(limit.resets_in_s)}` : "");
  const perMinute = (limits, all, ending = "") => {
    add(`Requests a minute${ending}`, limits.rpm, all.requests?.left, whenWhole(all.requests));
    add(`Tokens a minute${ending}`, limits.tpm, all.tokens?.left, whenWhole(all.tokens));
  };
  perMinute(key, left);
  add("Requests at once", key.concurrency, left.concurrency);
  for (const [model, limits] of Object.entries(key.model_limits)) {
    perMinute(limits, left.models?.[model] ?? {}, `, ${model}`);
  }
  if (key.budget !== null) {
    meters.push({
      name: "Budget",
      most: key.budget_nano,
      value: key.budget_nano - left.budget_nano,
      text: `${key.spent} of ${key.budget} spent, ${left.budget} left; `
        + `it begins anew at ${moment(left.budget_resets_at)}`,
    });
  }
  return meters;
}

function termsOf({ models, expires_at: expires }) {
  const which = models === null ? "all models" : (models.join(", ") || "no model");
  const ends = expires === null ? "It doesn't expire." : `It expires at ${moment(expires)}.`;
  return `It may use ${which}. ${ends}`;
}
