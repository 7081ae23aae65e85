// The chat: what is on screen, and what happens when its user does something.

import { Answer } from "./answer.js";
import { ApiError, BASE, apiKey, models, sentence } from "./api.js";
import { Composer } from "./composer.js";
import { Controls, completed, fieldsOf } from "./controls.js";
import { Conversations } from "./conversations.js";
import { CopyAs } from "./copy_as.js";
import { KeyField, KeyQuestion } from "./key.js";
import { Message, figuresOf } from "./message.js";
import * as store from "./store.js";
import { Component, createRef, html } from "./view.js";

const DRAW_EVERY = 40;
const WIDE = "(min-width: 64rem)";
const NO_ROOM = "This browser has no room left: delete or export conversations to keep this one.";

/** The messages and fields of the request that answers this conversation. */
export function requestOf(conversation, model, settings) {
  const told = conversation.messages
    .filter(({ role, content }) => role === "user" || content)
    .map(({ role, content }) => ({ role, content }));
  const system = conversation.system.trim();
  const messages = system ? [{ role: "system", content: system }, ...told] : told;
  const body = { model, messages, ...fieldsOf(settings) };
  if (body.stream) body.stream_options = { include_usage: true };
  return body;
}

export class Chat extends Component {
  log = createRef();
  composer = createRef();

  constructor() {
    super();
    const conversations = store.loadConversations();
    const current = store.newConversation();
    const isWide = matchMedia(WIDE).matches;
    this.state = {
      conversations: [current, ...conversations],
      current,
      settings: completed(store.loadSettings()),
      models: [],
      model: "",
      draft: "",
      editing: null, // the position of the message that is edited
      growing: null, // {answer, message, conversation, controller, notice}
      said: "", // for screen readers
      problem: "", // a sentence about the page as a whole
      keyProblem: null, // the server's sentence when it asks for a key
      showsList: isWide,
      showsSettings: isWide,
    };
  }

  componentDidMount() {
    this.loadModels();
    addEventListener("focus", this.loadModels);
    addEventListener("pagehide", this.keepGrowing);
  }

  componentDidUpdate() {
    const log = this.log.current;
    if (log && this.isAtEnd) log.scrollTop = log.scrollHeight;
  }

  /** Follows the answer's end, unless its reader has scrolled up. */
  isAtEnd = true;
  onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = this.log.current;
    this.isAtEnd = scrollHeight - scrollTop - clientHeight < 48;
  };

  loadModels = async () => {
    try {
      const found = await models();
      const isThere = found.some(({ id }) => id === this.state.model);
      const model = isThere ? this.state.model : (found[0]?.id ?? "");
      const problem = found.length ? "" : "This server has no model that generates text.";
      this.setState({ models: found, model, problem });
    } catch (error) {
      this.report(error);
    }
  };

  /** Shows what went wrong with the page as a whole; a missing key is asked for. */
  report(error) {
    if (error instanceof ApiError && error.status === 401) {
      this.setState({ keyProblem: error.message, problem: "" });
    } else {
      this.setState({ problem: sentence(error) });
    }
  }

  setKey = async (key) => {
    apiKey.set(key);
    this.setState({ keyProblem: null });
    await this.loadModels();
    const { current, growing, keyProblem } = this.state;
    if (keyProblem === null) this.composer.current?.focus();
    // What was asked without the right key is asked again with it.
    if (keyProblem === null && !growing && current.messages.at(-1)?.isRefused) this.regenerate();
  };

  setSetting = (name, value) => {
    const settings = { ...this.state.settings, [name]: value };
    store.saveSettings(settings);
    this.setState({ settings });
  };

  /** Keeps a conversation that has changed, and shows it first in the list. */
  keep(conversation) {
    conversation.changed = Date.now();
    const problem = store.saveConversation(conversation) ? "" : NO_ROOM;
    const others = this.state.conversations.filter((one) => one !== conversation);
    const isListed = others.length < this.state.conversations.length; // else it was deleted
    if (isListed) this.setState({ conversations: [conversation, ...others], problem });
    else store.deleteConversation(conversation);
  }

  keepGrowing = () => {
    if (this.state.growing) store.saveConversation(this.state.growing.conversation);
  };

  start = () => {
    const empty = this.state.conversations.find((one) => !one.messages.length && !one.system);
    const current = empty ?? store.newConversation();
    const others = this.state.conversations.filter((one) => one !== current);
    this.choose(current, [current, ...others]);
  };

  choose = (current, conversations = this.state.conversations) => {
    this.isAtEnd = true;
    this.setState({ current, conversations, draft: "", editing: null });
    if (!matchMedia(WIDE).matches) this.setState({ showsList: false });
    this.composer.current?.focus();
  };

  forget = (conversation) => {
    if (!confirm(`Delete “${store.titleOf(conversation)}”?`)) return;
    if (this.state.growing?.conversation === conversation) this.stop();
    store.deleteConversation(conversation);
    const conversations = this.state.conversations.filter((one) => one !== conversation);
    this.setState({ conversations });
    if (conversation === this.state.current) this.setState({}, this.start);
  };

  bringIn = (conversations) => {
    for (const one of conversations) store.saveConversation(one);
    this.setState({ conversations: [...conversations, ...this.state.conversations] });
  };

  setSystem = (event) => {
    const { current } = this.state;
    current.system = event.target.value;
    this.keep(current);
  };

  edit = (position) => {
    this.setState({ editing: position, draft: this.state.current.messages[position].content });
    this.composer.current?.focus();
  };

  cancelEdit = () => this.setState({ editing: null, draft: "" });

  send = () => {
    const { current, draft, editing, growing } = this.state;
    if (growing || !draft.trim()) return;
    if (editing !== null) current.messages.length = editing;
    current.messages.push({ role: "user", content: draft });
    this.setState({ draft: "", editing: null });
    this.ask();
  };

  regenerate = () => {
    const { messages } = this.state.current;
    while (messages.at(-1)?.role === "assistant") messages.pop();
    this.ask();
  };

  /** Asks for the answer to the conversation as it is. */
  async ask() {
    const { current: conversation, model, settings } = this.state;
    const controller = new AbortController();
    const message = { role: "assistant", content: "", reasoning: "", toolCalls: [], model };
    const answer = new Answer(requestOf(conversation, model, settings), {
      signal: controller.signal,
      onChange: (notice) => this.draw(notice),
    });
    conversation.messages.push(message);
    this.isAtEnd = true;
    const growing = { answer, message, conversation, controller, notice: "" };
    this.setState({ growing, said: "The answer is being written." });
    this.keep(conversation);
    let said;
    try {
      await answer.run();
      said = "The answer is complete.";
    } catch (error) {
      if (controller.signal.aborted) {
        said = "Stopped.";
      } else {
        message.error = said = sentence(error);
        message.isRefused = error instanceof ApiError && error.status === 401;
        if (message.isRefused) this.report(error);
      }
    }
    this.take(growing);
    const figures = figuresOf(answer);
    message.figures = controller.signal.aborted ? `stopped · ${figures}` : figures;
    this.setState({ growing: null, said });
    this.keep(conversation);
    this.loadModels();
  }

  /** Draws what has come: the first at once, then the less often the longer it is, for Markdown is
   * read anew each time. */
  draw(notice) {
    const { growing } = this.state;
    if (!growing) return;
    const isNews = notice !== growing.notice;
    growing.notice = notice;
    if (isNews) this.setState({ said: notice || "The answer goes on." });
    const isFirst = !growing.message.content && !growing.message.reasoning;
    const wait = isFirst ? 0 : DRAW_EVERY + growing.answer.content.length / 100;
    this.drawing ??= setTimeout(() => {
      this.drawing = null;
      this.take(growing);
      this.setState({});
    }, wait);
  }

  take({ answer, message }) {
    message.content = answer.content;
    message.reasoning = answer.reasoning;
    message.toolCalls = answer.toolCalls;
  }

  stop = () => {
    const { growing } = this.state;
    if (!growing) return;
    growing.controller.abort();
    growing.answer.cancel();
    this.composer.current?.focus();
  };

  onKey = (event) => {
    if (event.key === "Escape" && this.state.growing) this.stop();
  };

  render({ isHidden }, state) {
    const { current, growing } = state;
    return html`
      <div class="chat" hidden=${isHidden} onKeyDown=${this.onKey}>
        ${this.toolbar(state)}
        <div class="columns">
          <nav id="list" aria-label="Conversations" hidden=${!state.showsList}>
            <${Conversations} conversations=${state.conversations} current=${current}
              onChoose=${(one) => this.choose(one)} onDelete=${this.forget}
              onImport=${this.bringIn} />
          </nav>
          <aside id="settings" aria-label="Settings" hidden=${!state.showsSettings}>
            ${this.sidebar(state)}
          </aside>
          <main>
            ${state.keyProblem !== null && html`
              <${KeyQuestion} problem=${state.keyProblem} onKey=${this.setKey} />`}
            ${state.problem && html`<p role="alert" class="error">${state.problem}</p>`}
            <div class="log" role="log" aria-label="Conversation" tabindex="0" ref=${this.log}
              onScroll=${this.onScroll}>
              ${!current.messages.length && html`<p class="welcome">Ask something.</p>`}
              ${current.messages.map((message, at) => this.message(message, at, state))}
            </div>
            <${Composer} fieldRef=${this.composer} draft=${state.draft}
              isEditing=${state.editing !== null} isBusy=${growing !== null}
              onDraft=${(draft) => this.setState({ draft })} onSend=${this.send}
              onStop=${this.stop} onCancelEdit=${this.cancelEdit} />
            <p role="status" class="off-screen">${state.said}</p>
          </main>
        </div>
      </div>
    `;
  }

  toolbar({ model, models: found, showsList, showsSettings }) {
    const choose = (event) => this.setState({ model: event.target.value });
    return html`<div class="toolbar" role="toolbar" aria-label="Chat">
      <label for="model" class="off-screen">Model</label>
      <select id="model" value=${model} onChange=${choose}>
        ${found.map((one) => html`<option key=${one.id} value=${one.id}>${optionOf(one)}</option>`)}
      </select>
      <button type="button" onClick=${this.start}>New chat</button>
      <button type="button" aria-expanded=${String(showsList)} aria-controls="list"
        onClick=${() => this.setState({ showsList: !showsList })}>Conversations</button>
      <button type="button" aria-expanded=${String(showsSettings)} aria-controls="settings"
        onClick=${() => this.setState({ showsSettings: !showsSettings })}>Settings</button>
    </div>`;
  }

  message(message, position, { growing, current }) {
    const isGrowing = growing?.message === message;
    const isLast = position === current.messages.length - 1;
    const { role } = message;
    const actions = {
      onEdit: role === "user" && !growing ? () => this.edit(position) : null,
      onRegenerate: role === "assistant" && isLast && !growing ? this.regenerate : null,
    };
    return html`<${Message} key=${position} message=${message} isGrowing=${isGrowing}
      notice=${isGrowing ? growing.notice : ""} actions=${actions} />`;
  }

  sidebar({ current, settings, draft, model }) {
    return html`
      <h2>Settings</h2>
      <div class="control">
        <label for="system">System prompt</label>
        <textarea id="system" rows="3" value=${current.system} onInput=${this.setSystem}
          aria-describedby="system-meaning"></textarea>
        <p id="system-meaning" class="hint">What this conversation's model is told first.</p>
      </div>
      <${Controls} settings=${settings} onChange=${this.setSetting} />
      <${KeyField} onKey=${this.setKey} />
      <${CopyAs} base=${BASE} hasKey=${apiKey.get() !== ""}
        request=${requestOnScreen(current, draft, model, settings)} />
    `;
  }
}

/** What "Send" would send; with nothing written, what the last answer was asked with. */
function requestOnScreen(conversation, draft, model, settings) {
  const messages = [...conversation.messages];
  if (draft.trim()) messages.push({ role: "user", content: draft });
  else while (messages.at(-1)?.role === "assistant") messages.pop();
  return requestOf({ ...conversation, messages }, model, settings);
}

function optionOf({ id, aliasOf, loaded }) {
  const name = aliasOf === null ? id : `${id} = ${aliasOf}`;
  return loaded ? `${name} · ready` : `${name} · loads when asked`;
}
