// Fetching models onto the server's disk: what there is to choose from, and how far each came.

import { admin } from "./api.js";
import { OperatorPart } from "./operator.js";
import { Table, bytes, span } from "./parts.js";
import { CopyButton, createRef, html } from "./view.js";

/** How long it takes to look again while something is fetched: the live feed may miss its end. */
const FETCHING = 1_500;

/** `running` are the live feed's downloads; undefined while it has none. */
export class Pulls extends OperatorPart {
  state = { catalogue: null, memory: null, pulls: [], said: "", problem: "" };
  field = createRef();

  /** A download that began or ended changes what there is. One may have come and gone between two
   * looks of the feed. */
  componentDidUpdate(before) {
    const { running } = this.props;
    if (running === undefined || running === before.running) return;
    const known = this.state.pulls.filter(({ state }) => state === "running");
    const sources = (pulls) => pulls.map(({ source }) => source).join("\n");
    if (sources(running) !== sources(known)) this.load();
  }

  /** What there is to fetch is read from the disk: it is asked for anew only if a download began
   * or ended. */
  async look() {
    const { data: pulls } = await admin("models/pulls");
    const found = { pulls };
    if (this.state.catalogue === null || standing(pulls) !== standing(this.state.pulls)) {
      const { data, memory_bytes } = await admin("models/catalogue");
      Object.assign(found, { catalogue: data, memory: memory_bytes });
    }
    return { found, again: pulls.some(({ state }) => state === "running") && FETCHING };
  }

  pull = (source) => this.act("models/pull", { source }, `${source} is being fetched.`);
  cancel = (source) => this.act("models/pull/cancel", { source }, `The fetching of ${source} ended.`);

  submit = (event) => {
    event.preventDefault();
    const source = this.field.current.value.trim();
    if (source) this.pull(source);
  };

  columns = [
    { name: "model", label: "Model", isWide: true, cell: (model) => html`
      <strong>${model.title}</strong><br />
      <span class="hint">${model.note}<br />${sourceOf(model)}</span>` },
    { name: "bytes", label: "Size", isNumber: true, cell: (model) => bytes(model.bytes) },
    { name: "memory", label: "Memory, about", isNumber: true,
      cell: (model) => bytes(model.memory_bytes) },
    { name: "fits", label: "Fits", cell: ({ fits }) => (fits ? "yes" : "not in the memory here") },
    { name: "pinned", label: "Checksum", cell: ({ pinned }) =>
      (pinned ? "known beforehand" : "its owner's") },
    { name: "fetch", label: html`<span class="off-screen">Action</span>`, cell: (model) => {
      const source = sourceOf(model);
      if (model.here) return html`<span class="hint">is here</span>`;
      return html`<button type="button" class="small" onClick=${() => this.pull(source)}
        aria-label=${`Fetch ${source}`}>Fetch</button>`;
    } },
  ];

  render({ running }, { catalogue, memory, pulls, said, problem }) {
    return html`<section aria-labelledby="pull">
      <h3 id="pull">Fetch a model</h3>
      ${current(pulls, running).map((pull) => html`<${Pull} key=${nameOf(pull)}
        pull=${pull} task=${taskOf(catalogue, pull.source)}
        onCancel=${() => this.cancel(pull.source)} />`)}
      <p role="alert" class="error">${problem}</p>
      <p role="status" class=${said ? "notice" : ""}>${said}</p>
      <form onSubmit=${this.submit}>
        <label for="source">From the Hugging Face hub</label>
        <div class="row">
          <input id="source" ref=${this.field} autocomplete="off" spellcheck=${false}
            placeholder="hf:OWNER/REPO" aria-describedby="source-hint" />
          <button type="submit">Fetch</button>
        </div>
        <p id="source-hint" class="hint"><code>hf:OWNER/REPO</code>, or
          <code> hf:OWNER/REPO/FILE.gguf</code> for one of several files.</p>
      </form>
      ${catalogue && html`<details>
        <summary>Models that are worth a try</summary>
        <p class="hint">This machine has ${bytes(memory)} of memory. Sizes are estimates, save of
          those whose checksum is known.</p>
        <${Table} caption="Models to fetch" rows=${catalogue} columns=${this.columns}
          keyOf=${sourceOf} empty="There is none." />
      </details>`}
    </section>`;
  }
}

const sourceOf = ({ name, source }) => source ?? name;

const taskOf = (catalogue, source) =>
  catalogue?.find((model) => sourceOf(model) === source)?.task ?? "generate";

const nameOf = ({ source, began_at }) => `${source} ${began_at}`;

const standing = (pulls) => pulls.map((pull) => `${nameOf(pull)} ${pull.state}`).join("\n");

/** The downloads, the running ones with the figures of this second. */
function current(pulls, running = []) {
  const now = new Map(running.map((pull) => [nameOf(pull), pull]));
  return pulls.map((pull) => (pull.state === "running" && now.get(nameOf(pull))) || pull);
}

/** One download: how far it is, why it failed, or how its model is served. */
function Pull({ pull, task, onCancel }) {
  const { source, state, error } = pull;
  if (state === "running") {
    return html`<div class="card">
      <div class="row"><strong>${source}</strong><span class="gap"></span>
        <button type="button" class="small" onClick=${onCancel}
          aria-label=${`Cancel the fetching of ${source}`}>Cancel</button></div>
      <progress aria-label=${`Fetching ${source}`} max=${pull.total ?? undefined}
        value=${pull.total ? pull.done : undefined}></progress>
      <p class="hint">${progressInWords(pull)}</p>
    </div>`;
  }
  if (state !== "done") {
    return html`<div class="card"><strong>${source}</strong>
      <p class=${state === "failed" ? "error" : "hint"}>${error ?? "It was cancelled."}</p></div>`;
  }
  const lines = configurationOf(source, task);
  return html`<div class="card"><strong>${source}</strong>
    <p class="hint">It is here. To serve it, add these lines to reverie.toml, and reload the
      configuration below.</p>
    <div class="code-block"><div class="code-bar"><span>reverie.toml</span>
      <${CopyButton} label="Copy" text=${() => lines} /></div>
      <pre tabindex="0" role="region" aria-label=${`Lines to serve ${source}`}>${lines}</pre></div>
  </div>`;
}

function progressInWords({ done, total, bytes_per_second: speed }) {
  const told = [total ? `${bytes(done)} of ${bytes(total)}` : bytes(done)];
  if (speed) told.push(`${bytes(speed)}/s`);
  if (speed && total) told.push(`${span(Math.ceil((total - done) / speed))} to go`);
  return told.join(", ");
}

/** The lines of a configuration that serve it. JSON's strings are TOML's. */
function configurationOf(source, task) {
  const [, repository = source] = source.split("/"); // of "hf:OWNER/REPO"
  const name = repository.replace(/[-_.]?gguf$/i, "").toLowerCase();
  const lines = ["[[models]]", `name = ${JSON.stringify(name)}`];
  lines.push(`source = ${JSON.stringify(source)}`);
  if (task !== "generate") lines.push(`task = ${JSON.stringify(task)}`);
  return `${lines.join("\n")}\n`;
}
