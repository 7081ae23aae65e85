// The requests that run, one of which can be ended.

import { admin, sentence } from "./api.js";
import { Question, Table, counted, seconds, whole } from "./parts.js";
import { Component, createRef, html } from "./view.js";
import { stepInWords } from "./words.js";

/** A table of `requests`, of which there are `count`: the server lists so many only. */
export class Running extends Component {
  state = { asked: null, said: "", problem: "" };
  place = createRef();
  heading = createRef();

  cancel = async () => {
    const { id } = this.state.asked;
    this.setState({ asked: null, said: "", problem: "" });
    try {
      await admin(`requests/${encodeURIComponent(id)}/cancel`, null);
      this.setState({ said: `The request ${id} was cancelled.` });
    } catch (error) {
      if (!this.props.onRefused(error)) this.setState({ problem: sentence(error) });
    }
  };


  getSnapshotBeforeUpdate() {
    return this.place.current.contains(document.activeElement);
  }

  /** Where the focused row ends, focus goes to the heading rather than to the page's begin. */
  componentDidUpdate(_props, _state, hadFocus) {
    if (hadFocus && document.activeElement === document.body) this.heading.current.focus();
  }

  columns = [
    { name: "key", label: "Key", cell: ({ key }) => key ?? "–" },
    { name: "model", label: "Model", cell: ({ model }) => model ?? "–" },
    { name: "backend", label: "Backend", cell: ({ backend }) => backend ?? "–" },
    { name: "state", label: "State", cell: stateOf },
    { name: "stream", label: "Stream", cell: ({ stream }) => (stream ? "yes" : "no") },
    { name: "tokens", label: "Tokens", isNumber: true, cell: ({ tokens }) => whole(tokens) },
    { name: "ttft", label: "First token", isNumber: true,
      cell: (request) => seconds(request.time_to_first_token) },
    { name: "seconds", label: "Running for", isNumber: true,
      cell: (request) => seconds(request.seconds) },
    { name: "cancel", label: html`<span class="off-screen">Action</span>`,
      cell: (request) => request.cancellable && html`<button type="button" class="small"
        aria-label=${`Cancel the request ${request.id}`}
        onClick=${() => this.setState({ asked: request })}>Cancel…</button>` },
  ];

  render({ requests, count }, { asked, said, problem }) {
    const more = count - requests.length;
    return html`<section ref=${this.place}>
      <h3 tabindex="-1" ref=${this.heading}>Running requests</h3>
      <${Table} caption="Running requests" columns=${this.columns} rows=${numbered(requests)}
        keyOf=${({ row }) => row} empty="No request runs at the moment." />
      ${more > 0 && html`<p class="hint">${whole(more)} more run that aren't listed.</p>`}
      <p role="status" class="hint">${said}</p>
      <p role="alert" class="error">${problem}</p>
      ${asked && html`<${Question} title="Cancel this request?" action="Cancel the request"
        onYes=${this.cancel} onNo=${() => this.setState({ asked: null })}>
        <p>The answer of ${asked.model ?? "a model"} to ${asked.key ?? "a caller without a key"}
        ends at once; its client is told. What was generated is billed.</p>
        <p class="hint">Its id is <code>${asked.id}</code>. All requests that carry it end.</p>
      <//>`}
    </section>`;
  }
}

/** Names the rows: clients choose ids, and may choose one twice. */
function numbered(requests) {
  const seen = new Map();
  return requests.map((request) => {
    const number = seen.get(request.id) ?? 0;
    seen.set(request.id, number + 1);
    return { ...request, row: `${request.id} ${number}` };
  });
}

function stateOf({ state, failovers }) {
  const again = failovers ? `, after ${counted(failovers, "failover")}` : "";
  return `${stepInWords(state)}${again}`;
}
