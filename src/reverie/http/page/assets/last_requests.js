// The ledger's last requests, for the server's operator, page by page.

import { admin, queryOf, sentence } from "./api.js";
import { Table, moment, seconds, whole } from "./parts.js";
import { Component, html } from "./view.js";

const PAGE = 25;

/** How requests end, as the ledger has it, and in words. */
const OUTCOMES = {
  running: "running",
  ok: "complete",
  length: "cut by its limit",
  cancelled: "cancelled",
  failed: "failed",
  lost: "lost",
};

const inSeconds = (ms) => seconds(ms === null ? null : ms / 1000);
const COLUMNS = [
  { name: "at", label: "At", cell: ({ at }) => html`<span class="day">${moment(at)}</span>` },
  { name: "key", label: "Key",
    cell: ({ name, key }) => html`<span class="name" dir="auto">${name ?? key}</span>` },
  { name: "model", label: "Model",
    cell: ({ model }) => html`<span class="name" dir="auto">${model}</span>` },
  { name: "outcome", label: "Outcome",
    cell: ({ outcome }) => html`<span class=${outcome === "failed" || outcome === "lost"
      ? "error" : ""}>${OUTCOMES[outcome] ?? outcome}</span>` },
  { name: "prompt_tokens", label: "Prompt tokens", isNumber: true,
    cell: (row) => whole(row.prompt_tokens) },
  { name: "completion_tokens", label: "Answer tokens", isNumber: true,
    cell: (row) => whole(row.completion_tokens) },
  { name: "cost", label: "Cost", isNumber: true,
    cell: (row) => (row.cost_nano ? row.cost : "–") },
  { name: "ttft", label: "First token", isNumber: true, cell: (row) => inSeconds(row.ttft_ms) },
  { name: "duration", label: "Duration", isNumber: true,
    cell: (row) => inSeconds(row.duration_ms) },
];

/** `filters` are `{key, model, tag}`: the requests of one key, of one model, of the keys with one tag.
 * Another object, though it says the same, has them loaded anew. */
export class LastRequests extends Component {
  state = { outcome: "", rows: null, next: null, problem: "" };

  componentDidMount() {
    this.load();
  }

  componentDidUpdate(before) {
    if (before.filters !== this.props.filters) this.load();
  }

  componentWillUnmount() {
    this.loading?.abort();
  }

  /** Loads the newest, or those before the row `before`. */
  async load(before = null) {
    this.loading?.abort();
    const { signal } = (this.loading = new AbortController());
    const { filters } = this.props;
    const query = queryOf({ limit: PAGE, ...filters, outcome: this.state.outcome, before });
    try {
      const page = await admin(`requests?${query}`, undefined, { signal });
      const rows = before === null ? page.data : [...this.state.rows, ...page.data];
      this.setState({ rows, next: page.has_more ? page.last_id : null, problem: "" });
    } catch (error) {
      if (signal.aborted || this.props.onRefused(error)) return;
      this.setState({ problem: sentence(error) });
    }
  }

  choose = (event) => this.setState({ outcome: event.target.value }, () => this.load());

  render(_, { outcome, rows, next, problem }) {
    return html`
      <div class="row part">
        <h3>Last requests</h3>
        <label class="row">Outcome
          <select value=${outcome} onChange=${this.choose}>
            <option value="">any</option>
            ${Object.entries(OUTCOMES).map(([value, label]) => html`<option key=${value}
              value=${value}>${label}</option>`)}
          </select></label>
      </div>
      ${problem && html`<p role="alert" class="error">${problem}</p>`}
      ${rows !== null && html`
        <${Table} caption="Last requests" columns=${COLUMNS} rows=${rows}
          keyOf=${(row) => `${row.request_id} ${row.at}`} empty="No request is such a one." />
        ${next !== null && html`<p><button type="button" onClick=${() => this.load(next)}>
          Show more
        </button></p>`}
      `}
    `;
  }
}
