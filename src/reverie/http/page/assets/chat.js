// The chat: what is on screen, and what happens when its user does something.

import { Answer } from "./answer.js";
import { ApiError, apiKey, models, sentence } from "./api.js";
import { Composer } from "./composer.js";
import { fromKept, maxTokensOf, toKeep } from "./controls.js";
import { Conversations } from "./conversations.js";
import { filesIn, readImage } from "./images.js";
import { fetchImages, forgetImages, keepImages } from "./kept_images.js";
import { KeyQuestion, refusalOf } from "./key.js";
import { Message, figuresOf } from "./message.js";
import { Question } from "./parts.js";
import { requestOf, requestOnScreen } from "./request.js";
import { Sidebar } from "./sidebar.js";
import * as store from "./store.js";
import { Toolbar } from "./toolbar.js";
import { Component, createRef, html } from "./view.js";
import { Welcome } from "./welcome.js";

const DRAW_EVERY = 40;
const WIDE = "(min-width: 64rem)";
const NO_ROOM = "This browser has no room left: delete or export conversations to keep this one.";

const NO_DRAFT = { content: "", images: [] };
/** Until the server has told which there are. */
const NO_MODEL = { id: "", loaded: true, seesImages: false, pricing: null, defaults: {} };

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
      settings: fromKept(store.loadSettings()),
      models: [],
      model: "",
      draft: NO_DRAFT,
      refusal: "", // why the draft can't be sent, or an image not attached
      editing: null, // the position of the message that is edited
      forgetting: null, // the conversation that may be deleted
      growing: null, // {answer, message, conversation, controller, notice}
      said: "", // for screen readers
      problem: "", // a sentence about the page as a whole
      keyProblem: null, // why the key was refused when the server asks for one; else null
      showsList: isWide,
      showsSettings: isWide,
    };
  }

  componentDidMount() {
    this.loadModels();
    addEventListener("focus", this.loadModels);
    addEventListener("pagehide", this.keepGrowing);
  }

  componentDidUpdate(before) {
    // Another view may have been told the key meanwhile.
    const isBack = before.isHidden && !this.props.isHidden;
    if (isBack && this.state.keyProblem !== null && apiKey.get()) this.setKey(apiKey.get());
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
      await new Promise((drawn) => this.setState({ models: found, model, problem }, drawn));
    } catch (error) {
      this.report(error);
    }
  };

  /** The model that is chosen. */
  get model() {
    return this.state.models.find(({ id }) => id === this.state.model) ?? NO_MODEL;
  }

  /** Shows what went wrong with the page as a whole; a missing key is asked for. */
  report(error) {
    if (error instanceof ApiError && error.status === 401) {
      this.setState({ keyProblem: refusalOf(error), problem: "" });
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
    store.saveSettings(toKeep(settings));
    this.setState({ settings });
  };

  /** Keeps a conversation that has changed, and shows it first in the list. */
  keep(conversation) {
    conversation.changed = Date.now();
    const problem = store.saveConversation(conversation) ? "" : NO_ROOM;
    keepImages(conversation).then((areKept) => areKept || this.setState({ problem: NO_ROOM }));
    const others = this.state.conversations.filter((one) => one !== conversation);
    const isListed = others.length < this.state.conversations.length; // else it was deleted
    if (isListed) this.setState({ conversations: [conversation, ...others], problem });
    else this.erase(conversation);
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
    this.setState({ current, conversations, draft: NO_DRAFT, refusal: "", editing: null });
    if (!matchMedia(WIDE).matches) this.setState({ showsList: false });
    this.composer.current?.focus();
    fetchImages(current).then(() => this.setState({}));
  };

  forget = () => {
    const { forgetting: conversation, growing, current } = this.state;
    if (growing?.conversation === conversation) this.stop();
    this.erase(conversation);
    const conversations = this.state.conversations.filter((one) => one !== conversation);
    this.setState({ conversations, forgetting: null });
    if (conversation === current) this.setState({}, this.start);
    else this.composer.current?.focus();
  };

  erase(conversation) {
    store.deleteConversation(conversation);
    forgetImages(conversation);
  }

  bringIn = async (conversations) => {
    this.setState({ conversations: [...conversations, ...this.state.conversations] });
    const areKept = conversations.map(store.saveConversation);
    areKept.push(...(await Promise.all(conversations.map(keepImages))));
    if (areKept.includes(false)) this.setState({ problem: NO_ROOM });
  };

  setSystem = (system) => {
    const { current } = this.state;
    current.system = system;
    this.keep(current);
  };

  setDraft = (draft) => this.setState({ draft, refusal: "" });

  attach = async (files) => {
    const refusal = this.model.seesImages ? "" : this.blindness();
    this.setState({ refusal });
    if (refusal) return;
    for (const file of files) {
      try {
        const image = await readImage(file);
        const withIt = ({ content, images }) => ({ content, images: [...images, image] });
        this.setState(({ draft }) => ({ draft: withIt(draft), said: "The image is attached." }));
      } catch (error) {
        this.setState({ refusal: error.message });
      }
    }
    this.composer.current?.focus();
  };

  /** A file that is dropped beside the field would take the place of the page. */
  onDrop = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    if (event.type === "drop") this.attach(filesIn(event.dataTransfer));
  };

  /** Why no image can be sent now. */
  blindness() {
    const others = this.state.models.some(({ seesImages }) => seesImages);
    const way = others ? "Choose one that does." : "No model here does.";
    return `${this.model.id} doesn't see images. ${way}`;
  }

  /** True if these messages may be sent to the chosen model; else their sender is told why not. */
  mayAsk(messages) {
    const isSeen = this.model.seesImages || !messages.some(({ images }) => images?.length);
    const told = `This conversation has images, and ${this.blindness()}`;
    this.setState({ refusal: isSeen ? "" : told });
    return isSeen;
  }

  edit = (position) => {
    const { content, images = [] } = this.state.current.messages[position];
    this.setState({ editing: position, draft: { content, images }, refusal: "" });
    this.composer.current?.focus();
  };

  cancelEdit = () => this.setState({ editing: null, draft: NO_DRAFT, refusal: "" });

  /** What is sent depends on the model, so who is quicker than the list of models waits for it. */
  send = async () => {
    if (this.isWaiting) return;
    this.isWaiting = true;
    if (!this.state.models.length) await this.loadModels();
    this.isWaiting = false;
    if (this.state.models.length) this.sendDraft();
  };

  sendDraft() {
    const { current, draft, editing, growing } = this.state;
    const { content, images } = draft;
    if (growing || !(content.trim() || images.length)) return;
    const message = { role: "user", content, ...(images.length && { images }) };
    const messages = [...current.messages.slice(0, editing ?? undefined), message];
    if (!this.mayAsk(messages)) return;
    current.messages = messages;
    this.setState({ draft: NO_DRAFT, editing: null });
    this.ask();
  }

  regenerate = () => {
    const { messages } = this.state.current;
    if (!this.mayAsk(messages)) return;
    while (messages.at(-1)?.role === "assistant") messages.pop();
    this.ask();
  };

  /** Asks for the answer to the conversation as it is. */
  async ask() {
    const { model } = this;
    const { current: conversation, settings } = this.state;
    const controller = new AbortController();
    const answer = new Answer(requestOf(conversation, model, settings), {
      signal: controller.signal,
      onChange: (notice) => this.draw(notice),
      maxTokens: maxTokensOf(settings, model.defaults),
    });
    const message = { role: "assistant", content: "", reasoning: "", toolCalls: [] };
    message.model = model.id;
    conversation.messages.push(message);
    this.isAtEnd = true;
    const notice = model.loaded ? "" : `${model.id} is being loaded. It answers after that.`;
    const growing = { answer, message, conversation, controller, notice };
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
    const figures = figuresOf(answer, model.pricing);
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

  /** Writes a first question into the field. */
  begin = (content) => {
    this.setDraft({ ...this.state.draft, content });
    this.composer.current?.focus();
  };

  onKey = (event) => {
    if (event.key === "Escape" && this.state.growing) this.stop();
  };

  render({ isHidden }, state) {
    const { current, growing } = state;
    return html`
      <div class="chat" hidden=${isHidden} onKeyDown=${this.onKey} onDragOver=${this.onDrop}
        onDrop=${this.onDrop}>
        <${Toolbar} ...${state} onModel=${(model) => this.setState({ model, refusal: "" })}
          onStart=${this.start}
          onList=${() => this.setState({ showsList: !state.showsList })}
          onSettings=${() => this.setState({ showsSettings: !state.showsSettings })} />
        <div class="columns">
          <nav id="list" aria-label="Conversations" hidden=${!state.showsList}>
            <${Conversations} conversations=${state.conversations} current=${current}
              onChoose=${(one) => this.choose(one)} onImport=${this.bringIn}
              onDelete=${(forgetting) => this.setState({ forgetting })} />
          </nav>
          <aside id="settings" aria-label="Settings" hidden=${!state.showsSettings}>
            <${Sidebar} system=${current.system} model=${this.model} settings=${state.settings}
              request=${requestOnScreen(current, state.draft, this.model, state.settings)}
              onSystem=${this.setSystem} onSetting=${this.setSetting} onKey=${this.setKey} />
          </aside>
          <main>
            ${state.keyProblem !== null && html`
              <${KeyQuestion} problem=${state.keyProblem} onKey=${this.setKey} />`}
            ${state.problem && html`<p role="alert" class="error">${state.problem}</p>`}
            <div class="log" role="log" aria-label="Conversation" tabindex="0" ref=${this.log}
              onScroll=${this.onScroll}>
              ${!current.messages.length && html`<${Welcome} onChoose=${this.begin} />`}
              ${current.messages.map((message, at) => this.message(message, at, state))}
            </div>
            <${Composer} fieldRef=${this.composer} draft=${state.draft}
              refusal=${state.refusal} canAttach=${this.model.seesImages}
              isEditing=${state.editing !== null} isBusy=${growing !== null}
              onDraft=${this.setDraft} onFiles=${this.attach} onSend=${this.send}
              onStop=${this.stop} onCancelEdit=${this.cancelEdit} />
            <p role="status" class="off-screen">${state.said}</p>
          </main>
        </div>
        ${state.forgetting && html`<${Question} action="Delete" onYes=${this.forget}
          title=${`Delete “${store.titleOf(state.forgetting)}”?`}
          onNo=${() => this.setState({ forgetting: null })}>
          <p>It is kept in this browser only, and gone then.</p>
        <//>`}
      </div>
    `;
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
}
