// The view "Keys": who may call, within which limits.

import { admin, queryOf, sentence, servedModels } from "./api.js";
import { KeyForm } from "./key_form.js";
import { KeyList } from "./key_list.js";
import { Secret } from "./key_secret.js";
import { ForOperator } from "./operator.js";
import { Question } from "./parts.js";
import { Component, html } from "./view.js";

const PAGE = 50;
const TYPING = 250;
const STATUSES = [
  ["", "Any"], ["active", "Active"], ["expired", "Expired"], ["revoked", "Revoked"],
];

export const Keys = () => html`<${ForOperator} title="Keys">
  ${(onRefused) => html`<${AllKeys} onRefused=${onRefused} />`}
<//>`;

class AllKeys extends Component {
  state = {
    q: "",
    tag: "",
    status: "",
    keys: null, // until they are there
    next: null, // what the next page comes after
    models: [],
    problem: "",
    said: "", // for screen readers
    dialog: null, // {kind: "form" | "secret" | "rotate" | "revoke", key, secret}
  };

  componentDidMount() {
    this.load();
    this.loadModels();
  }

  componentWillUnmount() {
    clearTimeout(this.typing);
    this.loading?.abort();
  }

  async loadModels() {
    this.setState({ models: await servedModels() });
  }

  search = (event) => {
    this.setState({ [event.target.name]: event.target.value });
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.load(), TYPING);
  };

  find = (tag) => this.setState({ tag }, () => this.load());

  /** Loads the first page of what is searched for, or the one after `after`. */
  async load(after = null) {
    this.loading?.abort();
    const { signal } = (this.loading = new AbortController());
    const { q, tag, status } = this.state;
    const query = queryOf({ limit: PAGE, q: q.trim(), tag: tag.trim(), status, after });
    try {
      const page = await admin(`keys?${query}`, undefined, { signal });
      const keys = after === null ? page.data : [...this.state.keys, ...page.data];
      const said = `${keys.length} ${keys.length === 1 ? "key" : "keys"} shown`
        + `${page.has_more ? ", and there may be more" : ""}.`;
      this.setState({ keys, next: page.has_more ? page.last_id : null, problem: "", said });
    } catch (error) {
      if (!signal.aborted) this.report(error);
    }
  }

  report(error) {
    if (!this.props.onRefused(error)) this.setState({ problem: sentence(error) });
  }

  open = (kind, key = null) => this.setState({ dialog: { kind, key }, problem: "" });
  close = () => this.setState({ dialog: null });

  /** Puts a key in its place; a new one first. */
  put = ({ secret, ...key }) => {
    const { keys } = this.state;
    const isListed = keys?.some(({ id }) => id === key.id);
    const put = (one) => (one.id === key.id ? key : one);
    this.setState({
      keys: isListed ? keys.map(put) : [key, ...(keys ?? [])],
      dialog: secret ? { kind: "secret", key, secret } : null,
      said: secret ? "" : `${key.name} is changed.`,
    });
  };

  act = async (what, { id }) => {
    this.close();
    try {
      this.put(await admin(`keys/${id}/${what}`, undefined, { method: "POST" }));
      // The button that had the focus is gone with what it did.
      if (what === "revoke") this.setState({}, () => document.getElementById(id)?.focus());
    } catch (error) {
      this.report(error);
    }
  };

  render({ onRefused }, { q, tag, status, keys, next, models, problem, said, dialog }) {
    return html`
      <form class="filters" role="search" aria-label="Keys"
        onSubmit=${(event) => event.preventDefault()}>
        <label>Name or id
          <input type="search" name="q" value=${q} onInput=${this.search}
            autocomplete="off" /></label>
        <label>Tag
          <input type="search" name="tag" value=${tag} onInput=${this.search}
            autocomplete="off" /></label>
        <label>Status
          <select name="status" value=${status} onChange=${this.search}>
            ${STATUSES.map(([value, label]) => html`<option value=${value}>${label}</option>`)}
          </select></label>
        <button type="button" class="main" onClick=${() => this.open("form")}>
          New key</button>
      </form>
      ${problem && html`<p role="alert" class="error">${problem}</p>`}
      <p role="status" class="off-screen">${said}</p>
      ${keys === null
        ? !problem && html`<p class="waiting">…</p>`
        : html`<${KeyList} keys=${keys} isSearched=${Boolean(q || tag || status)}
          hasMore=${next !== null} onMore=${() => this.load(next)} onTag=${this.find}
          onAction=${this.open} />`}
      ${dialog && this.dialog(dialog, models, onRefused)}
    `;
  }

  dialog({ kind, key, secret }, models, onRefused) {
    if (kind === "form") {
      return html`<${KeyForm} keyToChange=${key} models=${models} onSaved=${this.put}
        onClose=${() => this.closed("form")} onRefused=${onRefused} />`;
    }
    if (kind === "secret") {
      return html`<${Secret} name=${key.name} secret=${secret}
        onClose=${() => this.closed("secret")} />`;
    }
    const { title, says, action } = QUESTIONS[kind];
    return html`<${Question} title=${title(key.name)} action=${action}
      onYes=${() => this.act(kind, key)} onNo=${() => this.closed(kind)}>
      <p>${says}</p>
    <//>`;
  }

  /** A dialog tells a moment later that it was closed: another one may be open by then. */
  closed(kind) {
    if (this.state.dialog?.kind === kind) this.close();
  }
}

const QUESTIONS = {
  rotate: {
    title: (name) => `Give ${name} a new secret?`,
    says: "The secret that it has now ends within a second. The new one is shown once.",
    action: "Rotate",
  },
  revoke: {
    title: (name) => `Revoke ${name}?`,
    says: "Its next request is refused. A revoked key can't be used again; its use stays counted.",
    action: "Revoke",
  },
};
