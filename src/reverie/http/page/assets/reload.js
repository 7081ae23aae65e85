// The configuration on the server's disk: what it would change, and putting it in force.

import { admin, sentence } from "./api.js";
import { Table } from "./parts.js";
import { Component, html } from "./view.js";

export class Reload extends Component {
  state = { changes: null, isBusy: false, said: "", problems: [] };

  /** Asks, with `value` null to reload and undefined to look on. */
  async ask(value) {
    if (this.state.isBusy) return null;
    this.setState({ isBusy: true, said: "", problems: [] });
    try {
      return await admin("reload", value);
    } catch (error) {
      if (this.props.onRefused(error)) return null;
      const problems = error.problems?.length ? error.problems : [sentence(error)];
      this.setState({ changes: null, problems });
      return null;
    } finally {
      this.setState({ isBusy: false });
    }
  }

  show = async () => {
    const changes = await this.ask();
    if (changes) this.setState({ changes, problems: changes.problems ?? [] });
  };

  reload = async () => {
    const changes = await this.ask(null);
    if (!changes) return;
    this.setState({ changes: null, said: outcome(changes) });
    this.props.onReloaded();
  };

  render(_, { changes, isBusy, said, problems }) {
    return html`<section aria-labelledby="reload" aria-busy=${isBusy}>
      <h3 id="reload">Configuration</h3>
      <p class="hint">The server reads its reverie.toml and environment when it starts. A reload
        reads them again; requests that run aren't disturbed.</p>
      <div class="row">
        <button type="button" onClick=${this.show} aria-disabled=${isBusy}>
          Show what a reload would change</button>
        ${changes && !isSame(changes) && html`<button type="button" class="main" onClick=${this.reload}
          aria-disabled=${isBusy}>Reload</button>`}
      </div>
      <div role="alert" class="error">${problems.length > 0 && html`
        <p>The configuration can't be used; nothing was changed.</p>
        <ul>${problems.map((problem) => html`<li>${problem}</li>`)}</ul>`}</div>
      <p role="status" class=${said ? "notice" : ""}>${said}</p>
      ${changes && html`<${Differences} changes=${changes} />`}
    </section>`;
  }
}

const isSame = ({ added, removed, differences }) =>
  !added.length && !removed.length && !differences.length;

function Differences({ changes }) {
  if (isSame(changes)) return html`<p>A reload would change nothing.</p>`;
  const { added, removed, differences, needs_restart: fixed } = changes;
  const effect = ({ key }) => (fixed.includes(key) ? "after a restart" : "at once");
  return html`
    ${added.length > 0 && html`<p>Models that are added: ${added.join(", ")}</p>`}
    ${removed.length > 0 && html`<p>Models that are removed: ${removed.join(", ")}</p>`}
    ${differences.length > 0 && html`<${Table} caption="What a reload would change"
      rows=${differences} keyOf=${({ key }) => key} columns=${[
        { name: "key", label: "Key", cell: ({ key }) => html`<code>${key}</code>` },
        { name: "before", label: "Now", cell: ({ before }) => written(before) },
        { name: "after", label: "Then", cell: ({ after }) => written(after) },
        { name: "effect", label: "In force", cell: effect },
      ]} />`}
  `;
}

const written = (value) => (value === null ? "–" : html`<code>${value}</code>`);

function outcome({ added, removed, changed, needs_restart: fixed }) {
  const count = added.length + removed.length + changed.length;
  const done = count ? "The new configuration is in force." : "Nothing was there to be reloaded.";
  return fixed.length ? `${done} Only a restart changes ${fixed.join(", ")}.` : done;
}
