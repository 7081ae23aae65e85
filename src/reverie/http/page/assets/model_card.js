// One model and its backends, and the operator's hands on them.

import { EnginesOf } from "./cluster.js";
import { Meter, Table, bytes, counted, moment, seconds, span, whole } from "./parts.js";
import { html } from "./view.js";
import { circuitInWords, errorInWords, reasonInWords, stateInWords } from "./words.js";

const TASKS = { generate: "generates text", embed: "embeds", rerank: "ranks" };

/** `act(path, value, said)` asks the server for something; `cluster` is the live feed's, if any. */
export function ModelCard({ model, cluster, act }) {
  const { name, aliases, state } = model;
  const id = `model-${name}`;
  return html`<article class="card" aria-labelledby=${id}>
    <div class="row">
      <h3 id=${id}>${name}</h3>
      <span class=${`badge ${state}`}>${stateInWords(state)}</span>
      ${model.default && html`<span class="badge">default</span>`}
      <span class="gap"></span>
      ${model.runs_here && html`<${Engine} model=${model} act=${act} />`}
    </div>
    ${aliases.length > 0 && html`<p class="hint">Also called ${aliases.join(", ")}</p>`}
    ${model.reason && html`<p class=${["failed", "down"].includes(state) ? "error" : "hint"}>
      ${model.reason}</p>`}
    <dl class="facts">
      ${factsOf(model).map(([label, fact]) => html`<div key=${label}>
        <dt>${label}</dt><dd>${fact}</dd></div>`)}
    </dl>
    <${EnginesOf} name=${name} cluster=${cluster} />
    <${Table} caption=${`Backends of ${name}`} rows=${model.backends}
      keyOf=${(backend) => backend.name} columns=${columnsOf(model, act)}
      empty=${model.engines ? "No engine of the cluster is ready for requests."
        : "It has no backend. Reload the configuration, or see the server's log."} />
  </article>`;
}

/** Loads and unloads an engine that runs here. */
function Engine({ model: { name, state }, act }) {
  const load = () => act("models/load", { model: name }, `${name} is being loaded.`);
  const unload = () => act("models/unload", { model: name },
    `${name} was unloaded. The next request loads it again.`);
  const canLoad = state === "cold" || state === "failed";
  const word = canLoad ? "Load" : "Unload";
  // One button, so that the focus stays where it is when the state changes.
  return html`<button type="button" onClick=${canLoad ? load : unload}
    aria-label=${`${word} ${name}`}>${word}</button>`;
}

function factsOf(model) {
  const { name, in_flight, slots, waiting, seconds_to_ready, idle_unload, price } = model;
  const facts = [
    ["Task", TASKS[model.task] ?? model.task],
    ["Slots in use", html`<${Meter} label=${`Slots of ${name} in use`} value=${in_flight}
      most=${slots} />`],
    ["Waiting", counted(waiting, "request")],
  ];
  if (model.state === "loading" && seconds_to_ready !== null) {
    facts.push(["Ready in about", span(Math.max(0, Math.ceil(seconds_to_ready)))]);
  }
  if (model.engines) facts.push(["Engines in the cluster", enginesInWords(model.engines)]);
  if (model.source) {
    facts.push([model.engines ? "They run" : "Runs here, from", model.source]);
  }
  if (model.memory_bytes !== null) facts.push(["Memory, about", bytes(model.memory_bytes)]);
  if (model.context !== null) facts.push(["Context", `${whole(model.context)} tokens`]);
  if (model.runs_here) facts.push(["Kept loaded", keptLoaded(model.warm, idle_unload)]);
  facts.push(["Price per million tokens", price ? priceInWords(price) : "free"]);
  facts.push(["Limits", limitsInWords(model.limits)]);
  return facts;
}

/** "3", or "1 to 3, as requests need". */
function enginesInWords(engines) {
  const [least, most = least] = engines.split("-");
  return least === most ? least : `${least} to ${most}, as requests need`;
}

function keptLoaded(isWarm, idle) {
  if (idle) return `until it is idle for ${span(idle)}`;
  return isWarm ? "from the start" : "once it was asked";
}

const priceInWords = ({ currency, input, cached, output }) =>
  `${input} in, ${cached} cached, ${output} out (${currency})`;

function limitsInWords({ rpm, tpm, concurrency }) {
  const limits = [
    [rpm, "requests a minute"], [tpm, "tokens a minute"], [concurrency, "at once"],
  ].filter(([most]) => most != null);
  return limits.map(([most, what]) => `${whole(most)} ${what}`).join(", ") || "none";
}

const columnsOf = (model, act) => [
  { name: "name", label: "Backend", isWide: true, cell: ({ name, kind, url }) => html`
    <strong>${name}</strong><br /><span class="hint">${kind}${url && `, ${url}`}</span>` },
  { name: "state", label: "State", isWide: true, cell: Standing },
  { name: "use", label: "Slots in use", cell: ({ name, in_flight, slots }) => html`
    <${Meter} label=${`Slots of ${name} in use`} value=${in_flight} most=${slots} />` },
  { name: "speed", label: "Tokens / s", isNumber: true,
    cell: ({ tokens_per_second: speed }) => (speed === null ? "–" : speed.toFixed(1)) },
  { name: "first", label: "First token", isNumber: true,
    cell: (backend) => seconds(backend.time_to_first_token) },
  { name: "error", label: "Last error", cell: ({ last_error: error }) =>
    (error ? `${errorInWords(error.code)}, ${moment(error.at)}` : "none") },
  { name: "probe", label: "Last probe", cell: ({ last_probe: probe }) => {
    if (!probe) return "–";
    return `${probe.ok ? "well" : errorInWords(probe.code)}, ${moment(probe.at)}`;
  } },
  { name: "drain", label: html`<span class="off-screen">Action</span>`,
    cell: (backend) => html`<${Drain} model=${model.name} backend=${backend} act=${act} />` },
];

function Standing({ state, reason, retry_in, draining, in_flight }) {
  const isWell = state === "closed" && !draining;
  const words = draining ? "drained" : circuitInWords(state);
  const wait = state === "open" && retry_in > 0 ? ` The next trial is in about ${Math.ceil(retry_in)} s.` : "";
  const left = draining ? ` ${leftInWords(in_flight)}` : "";
  const look = draining ? "cold" : isWell ? "ready" : "down";
  return html`<span class=${`badge ${look}`}>${words}</span>
    ${reason && html`<br /><span class="hint">${reasonInWords(reason)}${wait}${left}</span>`}`;
}

function leftInWords(count) {
  if (!count) return "Nothing runs there any more.";
  return count === 1 ? "1 request still runs there." : `${count} requests still run there.`;
}

function Drain({ model, backend: { name, draining }, act }) {
  const value = { model, backend: name };
  const drain = () => act("backends/drain", value, `${name} gets no new request.`);
  const resume = () => act("backends/resume", value, `${name} gets requests again.`);
  return html`<button type="button" class="small" onClick=${draining ? resume : drain}
    aria-label=${`${draining ? "Put back" : "Drain"} ${name}`}>
    ${draining ? "Put back" : "Drain"}</button>`;
}
