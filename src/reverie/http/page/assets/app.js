// The page as a whole: its views, one of which is shown.

import { Chat } from "./chat.js";
import { Component, createRef, html, render } from "./view.js";

/** Each view, by its place in the address. Those that a visitor may never open are fetched when
 * they are. The chat is always there, so that its answer grows on while another view is shown. */
const VIEWS = {
  chat: { name: "Chat" },
  usage: { name: "Usage", fetch: async () => (await import("./usage.js")).Usage },
  activity: { name: "Activity", fetch: async () => (await import("./activity.js")).Activity },
  keys: { name: "Keys", fetch: async () => (await import("./keys.js")).Keys },
  models: { name: "Models", fetch: async () => (await import("./models.js")).Models },
};

/** The view that the address names; null for another part of the page, such as "#message". */
function viewInAddress() {
  const { hash } = location;
  if (hash !== "" && !hash.startsWith("#/")) return null;
  return Object.hasOwn(VIEWS, hash.slice(2)) ? hash.slice(2) : "chat";
}

class App extends Component {
  state = { view: viewInAddress() ?? "chat", fetched: {}, problem: "" };
  place = createRef();

  componentDidMount() {
    addEventListener("hashchange", this.follow);
    this.show(this.state.view);
  }

  follow = async () => {
    const view = viewInAddress();
    if (view === null || view === this.state.view) return;
    await this.show(view);
    // A screen reader begins with what is new. The chat has a field of its own for that.
    this.place.current?.querySelector("h2")?.focus();
  };

  async show(view) {
    this.setState({ view, problem: "" });
    document.title = view === "chat" ? "Reverie" : `${VIEWS[view].name} · Reverie`;
    if (view === "chat" || this.state.fetched[view]) return;
    try {
      const fetched = { ...this.state.fetched, [view]: await VIEWS[view].fetch() };
      await new Promise((drawn) => this.setState({ fetched }, drawn));
    } catch {
      this.setState({ problem: "This view can't be loaded. Load the page again." });
    }
  }

  render(_, { view, fetched, problem }) {
    const View = fetched[view];
    return html`
      <div class="page">
        ${view === "chat" && html`<a class="skip" href="#message">Skip to your message</a>`}
        <header>
          <h1>Reverie</h1>
          <nav aria-label="Views" class="views">
            ${Object.entries(VIEWS).map(([id, { name }]) => html`<a key=${id} href=${`#/${id}`}
              aria-current=${id === view ? "page" : undefined}>${name}</a>`)}
          </nav>
        </header>
        <${Chat} isHidden=${view !== "chat"} />
        ${view !== "chat" && html`<main class="view" ref=${this.place}>
          ${problem && html`<p role="alert" class="error">${problem}</p>`}
          ${View ? html`<${View} key=${view} />` : !problem && html`<p class="waiting">…</p>`}
        </main>`}
      </div>
    `;
  }
}

render(html`<${App} />`, document.getElementById("app"));
