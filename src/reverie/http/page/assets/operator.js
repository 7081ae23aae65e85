// What the operator's views stand behind: the admin key, kept for this tab only.

import { ApiError, admin, adminKey, sentence } from "./api.js";
import { Component, createRef, html } from "./view.js";

/** Asks for the admin key, and shows `children(onRefused)` once there is one. A view calls
 * `onRefused(error)` with whatever went wrong; true if that was the key, which is asked for again.
 */
export class ForOperator extends Component {
  state = { hasKey: adminKey.get() !== "", problem: "" };
  field = createRef();

  onRefused = (error) => {
    if (!(error instanceof ApiError) || ![401, 403].includes(error.status)) return false;
    adminKey.set("");
    this.setState({ hasKey: false, problem: error.message });
    return true;
  };

  submit = (event) => {
    event.preventDefault();
    const key = this.field.current.value.trim();
    if (!key) return;
    adminKey.set(key);
    this.setState({ hasKey: true, problem: "" });
  };

  forget = () => {
    adminKey.set("");
    this.setState({ hasKey: false, problem: "" });
  };

  render({ children, title }, { hasKey, problem }) {
    if (hasKey) {
      return html`
        <div class="row title">
          <h2 tabindex="-1">${title}</h2>
          <button type="button" class="quiet" onClick=${this.forget}>Forget the admin key</button>
        </div>
        ${children(this.onRefused)}
      `;
    }
    return html`
      <h2 tabindex="-1">${title}</h2>
      <form class="key" onSubmit=${this.submit} aria-labelledby="admin-question">
        <h3 id="admin-question">This is for the server's operator</h3>
        <p role="alert" class="error">${problem}</p>
        <label for="admin-key">Admin key</label>
        <div class="row">
          <input id="admin-key" type="password" autocomplete="off" ref=${this.field}
            aria-describedby="admin-key-hint" />
          <button type="submit" class="main">Use this key</button>
        </div>
        <p id="admin-key-hint" class="hint">
          It is what the server was started with as <code>REVERIE_ADMIN_KEY</code>. It is kept for
          this tab only.
        </p>
      </form>
    `;
  }
}

/** A part of an operator's view that shows what the server tells, has it do something, and looks
 * again. A subclass has `look()`, which gives the state to show as `found`, and as `again` the
 * milliseconds after which it wants to look again; none: when there is a reason. */
export class OperatorPart extends Component {
  componentDidMount() {
    this.load();
  }

  componentWillUnmount() {
    this.isGone = true;
    clearTimeout(this.timer);
  }

  load = async () => {
    clearTimeout(this.timer);
    try {
      const { found, again } = await this.look();
      if (this.isGone) return;
      this.setState(found);
      if (again) this.timer = setTimeout(this.load, again);
    } catch (error) {
      this.report(error);
    }
  };

  /** Asks the server to do something, says what it did, and looks again. */
  act = async (path, value, said) => {
    this.setState({ said: "", problem: "" });
    try {
      await admin(path, value);
      this.setState({ said });
      await this.load();
    } catch (error) {
      this.report(error);
    }
  };

  report(error) {
    if (!this.isGone && !this.props.onRefused(error)) this.setState({ problem: sentence(error) });
  }
}
