// The view "Activity": what the server does now, and did in the last hour.

import { Cluster, ClusterNotice } from "./cluster.js";
import { Pace, hourOf, requestsPerMinute, sum } from "./hour.js";
import { Live } from "./live.js";
import { ForOperator } from "./operator.js";
import { Meter, Table, Tiles, moment, whole } from "./parts.js";
import { Running } from "./running.js";
import { LastHour } from "./throughput.js";
import { Component, CopyButton, html } from "./view.js";
import { errorInWords } from "./words.js";

export const Activity = () => html`<${ForOperator} title="Activity">${(onRefused) => html`
  <${Live} onRefused=${onRefused}>${(snapshot, notice) => html`
    <p role="status" class=${notice ? "notice" : ""}>${notice}</p>
    ${snapshot
      ? html`<${Overview} snapshot=${snapshot} onRefused=${onRefused} />`
      : !notice && html`<p class="waiting">…</p>`}
  `}<//>
`}<//>`;

class Overview extends Component {
  pace = new Pace();

  render({ snapshot, onRefused }) {
    const hour = hourOf(snapshot);
    return html`
      <${ClusterNotice} cluster=${snapshot.cluster} />
      <${Tiles} label="Now" tiles=${this.tiles(snapshot, hour)} />
      <${Queues} models=${snapshot.models} />
      ${snapshot.cluster && html`<${Cluster} cluster=${snapshot.cluster} />`}
      <${Running} requests=${snapshot.requests} count=${snapshot.running}
        onRefused=${onRefused} />
      <section>
        <h3>The last hour</h3>
        <${LastHour} hour=${hour} snapshot=${snapshot} />
      </section>
      <section>
        <h3>Recent errors</h3>
        <${Errors} errors=${snapshot.errors} />
      </section>
    `;
  }

  tiles(snapshot, hour) {
    const waiting = snapshot.models.reduce((total, model) => total + model.waiting, 0);
    const speed = this.pace.take(snapshot);
    return [
      ["Running", whole(snapshot.running)],
      ["Waiting", whole(waiting)],
      ["Requests / min", requestsPerMinute(snapshot).toFixed(0)],
      ["Tokens / s", speed === null ? "–" : speed.toFixed(speed < 10 ? 1 : 0)],
      ["Failovers, last hour", whole(sum(hour, "failovers"))],
      ["Failed, last hour", whole(sum(hour, "failed"))],
    ];
  }
}

/** How full each model is, and who waits for it. */
const Queues = ({ models }) => html`<section>
  <h3>Models</h3>
  <${Table} caption="Slots and queues of the models" rows=${models} keyOf=${({ model }) => model}
    columns=${QUEUE_COLUMNS} empty="This server has no model. Add one to its reverie.toml." />
</section>`;

const QUEUE_COLUMNS = [
  { name: "model", label: "Model" },
  { name: "slots", label: "Slots in use", cell: ({ model, in_flight, slots }) => html`
    <${Meter} label=${`Slots of ${model} in use`} value=${in_flight} most=${slots} />` },
  { name: "waiting", label: "Waiting", isNumber: true, cell: ({ waiting }) => whole(waiting) },
];

const Errors = ({ errors }) => html`<${Table} caption="Recent errors"
  rows=${errors.toReversed()} keyOf=${({ id, at }) => `${at} ${id}`} columns=${ERROR_COLUMNS}
  empty="No request failed since the server started." />`;

const ERROR_COLUMNS = [
  { name: "at", label: "When", cell: ({ at }) => moment(at) },
  { name: "error", label: "What", isWide: true, cell: ({ error, reason }) =>
    `${errorInWords(error ?? "internal_error")}${reason ? `: ${reason}` : "."}` },
  { name: "model", label: "Model", cell: ({ model }) => model ?? "–" },
  { name: "backend", label: "Backend", cell: ({ backend }) => backend ?? "–" },
  { name: "key", label: "Key", cell: ({ key }) => key ?? "–" },
  { name: "id", label: "Request", cell: ({ id }) => html`<span class="copied">
    <code>${id}</code><${CopyButton} label="Copy" text=${() => id} /></span>` },
];
