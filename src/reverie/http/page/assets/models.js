// The view "Models": how each model and each of its backends stands, and what can be done with it.

import { admin } from "./api.js";
import { ClusterNotice } from "./cluster.js";
import { Live } from "./live.js";
import { ModelCard } from "./model_card.js";
import { ForOperator, OperatorPart } from "./operator.js";
import { Pulls } from "./pull.js";
import { Reload } from "./reload.js";
import { html } from "./view.js";

export const Models = () => html`<${ForOperator} title="Models and backends">${(onRefused) => html`
  <${Live} onRefused=${onRefused}>${(snapshot, notice) => html`
    <p role="status" class=${notice ? "notice" : ""}>${notice}</p>
    <${Overview} snapshot=${snapshot} onRefused=${onRefused} />
  `}<//>
`}<//>`;

/** How long it takes to look again while a model is loaded. */
const LOADING = 2_000;

/** The models as the server describes them, asked for anew when the live feed shows a change. */
class Overview extends OperatorPart {
  state = { models: null, said: "", problem: "" };

  componentDidUpdate(before) {
    const { snapshot } = this.props;
    if (snapshot !== before.snapshot && before.snapshot !== null
      && standing(snapshot) !== standing(before.snapshot)) this.load();
  }

  async look() {
    const { data: models } = await admin("models");
    const isLoading = models.some(({ state }) => state === "loading");
    return { found: { models, problem: "" }, again: isLoading && LOADING };
  }

  render({ snapshot, onRefused }, { models, said, problem }) {
    const moving = new Map((snapshot?.models ?? []).map((model) => [model.model, model]));
    return html`
      <p role="alert" class="error">${problem}</p>
      <${ClusterNotice} cluster=${snapshot?.cluster} />
      <p role="status" class=${said ? "notice" : ""}>${said}</p>
      ${models === null && !problem && html`<p class="waiting">…</p>`}
      ${models?.length === 0 && html`<p class="hint">This server has no model. Add one to its
        reverie.toml, and reload it below.</p>`}
      ${models?.map((model) => html`<${ModelCard} key=${model.name} act=${this.act}
        model=${merged(model, moving.get(model.name))} cluster=${snapshot?.cluster} />`)}
      <${Pulls} running=${snapshot?.pulls} onRefused=${onRefused} />
      <${Reload} onRefused=${onRefused} onReloaded=${this.load} />
    `;
  }
}

/** What the description of the models follows from, as far as the live feed has it. */
const standing = ({ models }) => JSON.stringify(models.map(({ model, state, backends }) => [
  model, state, backends.map((backend) => [backend.name, backend.state, backend.reason]),
]));

/** A model's description with the figures of this second. */
function merged(model, now) {
  if (now === undefined) return model;
  const known = new Map(now.backends.map((backend) => [backend.name, backend]));
  const backends = model.backends.map((backend) => ({ ...backend, ...known.get(backend.name) }));
  const { in_flight, waiting, slots } = now;
  return { ...model, in_flight, waiting, slots, backends };
}
