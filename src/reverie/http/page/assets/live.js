// What the server does now: one stream of snapshots for all parts of the page that show it.

import { ApiError, adminKey, call, sentence } from "./api.js";
import { events } from "./sse.js";
import { Component } from "./view.js";

const LONGEST_WAIT = 10_000;

/** Watches `admin/v1/live` while anybody listens and the tab is seen. */
class Feed {
  #listeners = new Set();
  #controller = null;
  snapshot = null;

  /** `listener(snapshot, problem)`: the problem is an `Error` while there is one, else null. */
  listen(listener) {
    this.#listeners.add(listener);
    if (this.#listeners.size === 1) {
      document.addEventListener("visibilitychange", this.#follow);
      this.#follow();
    }
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size) return;
      document.removeEventListener("visibilitychange", this.#follow);
      this.#stop();
      this.snapshot = null;
    };
  }

  #follow = () => {
    if (document.hidden) this.#stop();
    else if (this.#controller === null) this.#watch();
  };

  #stop() {
    this.#controller?.abort();
    this.#controller = null;
  }

  #tell(problem) {
    for (const listener of [...this.#listeners]) listener(this.snapshot, problem);
  }

  async #watch() {
    const controller = new AbortController();
    this.#controller = controller;
    const { signal } = controller;
    for (let tries = 0; !signal.aborted; tries += 1) {
      try {
        const options = { signal, key: adminKey.get() };
        const response = await call("admin/v1/live?stream=true", options);
        for await (const { data } of events(response)) {
          if (signal.aborted) return;
          tries = 0;
          this.snapshot = JSON.parse(data);
          this.#tell(null);
        }
      } catch (error) {
        if (signal.aborted) return;
        this.#tell(error);
        if (error instanceof ApiError && [401, 403].includes(error.status)) return;
      }
      await new Promise((over) => setTimeout(over, Math.min(500 * 2 ** tries, LONGEST_WAIT)));
    }
  }
}

const feed = new Feed();

/** Draws `children(snapshot, notice)` anew with each snapshot. `notice` is a sentence while the
 * server can't be watched. `onRefused` is told of errors, as `ForOperator` has it. */
export class Live extends Component {
  state = { snapshot: null, notice: "" };

  componentDidMount() {
    this.leave = feed.listen((snapshot, problem) => {
      if (problem !== null && this.props.onRefused(problem)) return;
      const notice = problem === null ? "" : `${sentence(problem)} Trying again…`;
      this.setState({ snapshot, notice });
    });
  }

  componentWillUnmount() {
    this.leave();
  }

  render({ children }, { snapshot, notice }) {
    return children(snapshot, notice);
  }
}
