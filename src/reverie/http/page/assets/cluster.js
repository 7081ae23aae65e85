// The cluster that models run on: its machines, and the engines of each model.

import { Meter, Table, bytes, counted, moment, span, whole } from "./parts.js";
import { html } from "./view.js";
import { engineInWords, machineInWords } from "./words.js";

/** A sentence of the server, which puts commands between backticks. */
const withCommands = (sentence) => sentence.split("`")
  .map((part, at) => (at % 2 ? html`<code>${part}</code>` : part));

/** Says that the cluster's manager doesn't answer, while it doesn't. */
export const ClusterNotice = ({ cluster }) => html`<p role="alert" class="error">
  ${cluster && !cluster.connected && html`The cluster's manager hasn't answered since
    ${" "}${moment(cluster.since)}. ${withCommands(cluster.why)} Engines go on to answer. What is
    shown of it is what was known last.`}</p>`;

/** The machines, and how many engines each model has and wants. */
export function Cluster({ cluster: { manager, machines, models, unlisted } }) {
  if (manager === null) return null; // nothing is known of it yet, and the notice says why
  return html`<section>
    <h3>Cluster</h3>
    <p class="hint">${sharedBy(manager.gateways)} To take a machine out of service:
      ${" "}<code>reverie cluster drain ADDRESS</code></p>
    ${models.map((model) => html`<${Short} key=${model.model} model=${model} />`)}
    <${Table} caption="Machines of the cluster" rows=${machines} columns=${MACHINE_COLUMNS}
      keyOf=${({ address }) => address}
      empty="It has no machine yet. Start one with reverie cluster join." />
    <${More} count=${unlisted.machines} noun="machine" />
    <${Table} caption="Engines that the models have" rows=${models} columns=${MODEL_COLUMNS}
      keyOf=${({ model }) => model} empty="No model runs in it yet." />
  </section>`;
}

const sharedBy = (gateways) => (gateways === 1
  ? "This gateway alone uses it." : `${whole(gateways)} gateways share its engines.`);

/** What one model has of the cluster; nothing if it doesn't run there. */
export function EnginesOf({ name, cluster }) {
  const model = cluster?.models.find((one) => one.model === name);
  if (model === undefined) return null;
  const engines = cluster.engines.filter((engine) => engine.model === name);
  const hidden = model.running + model.starting + model.failed + model.leaving - engines.length;
  return html`
    <${Short} model=${model} />
    <${Table} caption=${`Engines of ${name}`} rows=${engines} columns=${ENGINE_COLUMNS}
      keyOf=${(engine) => `${engine.name} ${engine.machine} ${engine.leaving}`}
      empty=${model.why || hidden ? "" : "No engine runs at the moment. A request starts one."} />
    <${More} count=${hidden} noun="engine" />
  `;
}

/** Those that the live feed leaves out: it lists what is in trouble first. */
const More = ({ count, noun }) => count > 0
  && html`<p class="hint">… and ${counted(count, `more ${noun}`)}.</p>`;

/** Why a model has fewer engines than it wants. */
const Short = ({ model: { model, running, wanted, why } }) => why && html`<p class="error">
  ${model} has ${whole(running)} of ${counted(wanted, "engine")}: ${withCommands(why)}</p>`;

const MACHINE_LOOKS = { up: "ready", draining: "cold", lost: "down" };
const stateOfMachine = ({ alive, draining }) => (!alive ? "lost" : draining ? "draining" : "up");

const MACHINE_COLUMNS = [
  { name: "address", label: "Machine" },
  { name: "state", label: "State", cell: (machine) => {
    const state = stateOfMachine(machine);
    return html`<span class=${`badge ${MACHINE_LOOKS[state]}`}>${machineInWords(state)}</span>`;
  } },
  { name: "engines", label: "Engines", cell: ({ alive, address, engines, engine_slots }) =>
    (alive ? html`<${Meter} label=${`Engines on ${address}`} value=${engines}
      most=${engine_slots} />` : "–") },
  { name: "gpus", label: "GPUs free", isNumber: true,
    cell: ({ alive, gpus, free_gpus }) =>
      (!alive ? "–" : gpus ? `${free_gpus} of ${gpus}` : "none") },
  { name: "memory", label: "Memory free", isNumber: true,
    cell: ({ alive, memory_bytes, free_memory_bytes }) =>
      (alive ? `${bytes(free_memory_bytes)} of ${bytes(memory_bytes)}` : "–") },
];

const MODEL_COLUMNS = [
  { name: "model", label: "Model" },
  { name: "running", label: "Engines, of those wanted", cell: ({ model, running, wanted }) => html`
    <${Meter} label=${`Engines of ${model}`} value=${running} most=${wanted} />` },
  { name: "bounds", label: "Bounds", cell: ({ least, most }) =>
    (least === most ? whole(least) : `${whole(least)} to ${whole(most)}`) },
  { name: "starting", label: "Starting", isNumber: true, cell: ({ starting, seconds_to_ready }) =>
    whole(starting) + (starting && seconds_to_ready !== null
      ? `, ready in about ${span(Math.ceil(seconds_to_ready))}` : "") },
  { name: "leaving", label: "Leaving", isNumber: true, cell: ({ leaving }) => whole(leaving) },
  { name: "waiting", label: "Waiting everywhere", isNumber: true,
    cell: ({ waiting }) => whole(waiting) },
];

const ENGINE_LOOKS = { ready: "ready", leaving: "cold", failed: "failed" };

const ENGINE_COLUMNS = [
  { name: "name", label: "Engine" },
  { name: "machine", label: "Machine" },
  { name: "state", label: "State", isWide: true, cell: ({ state, leaving, why }) => {
    const step = leaving ? "leaving" : state;
    return html`<span class=${`badge ${ENGINE_LOOKS[step] ?? "loading"}`}>${engineInWords(step)}
      </span>${why && html`<br /><span class="hint">${withCommands(why)}</span>`}`;
  } },
  { name: "memory", label: "Memory, about", isNumber: true,
    cell: ({ memory_bytes }) => bytes(memory_bytes) },
  { name: "start", label: "Took to start", isNumber: true,
    cell: ({ seconds_to_ready }) => span(seconds_to_ready) },
];
