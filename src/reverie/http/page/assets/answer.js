// One answer: asked for, put together from its pieces, and gone on with when its connection drops.

import { ApiError, call, randomName } from "./api.js";
import { events } from "./sse.js";

const PATH = "v1/chat/completions";
const LONGEST_WAIT = 5000;
const GIVE_UP_AFTER = 180_000;
const LOST = ["stream_not_resumable", "answer_not_kept"];

/** Asks for an answer and puts it together.
 *
 * Every request carries an `Idempotency-Key`, so that asking again costs nothing: when the
 * connection drops, the same request with the last event's number gets the rest. A server that was
 * restarted has forgotten the stream; then the model is asked to go on from the text that is here.
 */
export class Answer {
  content = "";
  reasoning = "";
  toolCalls = [];
  finishReason = null;
  usage = null;
  /** Times of the request, the first piece and the last, in milliseconds. */
  asked = 0;
  first = null;
  last = null;
  /** How often the connection was lost and found again. */
  resumed = 0;

  #body;
  #maxTokens;
  #sent;
  #key;
  #lastId = null;
  #pieces = 0;
  #before = 0;
  #complete = false;
  #isContinuation = false;
  #isAskedAnew = false; // and nothing has come of that yet

  /** `onChange(notice)` is called after each piece, and with a sentence when something is amiss.
   * `maxTokens` holds also where the body leaves it to a default. */
  constructor(body, { signal, onChange, maxTokens }) {
    this.#body = body;
    this.#maxTokens = maxTokens;
    this.signal = signal;
    this.onChange = onChange;
    this.#ask(body);
  }

  /** Resolves when the answer is complete; rejects with the server's error or an `AbortError`. */
  async run() {
    this.asked = performance.now();
    let tries = 0;
    let lostAt = null;
    for (;;) {
      const before = this.#pieces;
      let error;
      try {
        await this.#request(tries > 0);
        if (this.#complete) return;
        error = new TypeError("cut");
      } catch (caught) {
        error = caught;
      }
      if (this.signal.aborted) throw error;
      const isNew = this.#pieces > before || lostAt === null;
      if (isNew) [tries, lostAt] = [0, performance.now()];
      if (error instanceof ApiError) {
        if (this.#askAnew(error)) continue;
        if (!error.passing || !(tries || this.#pieces)) throw error;
      } else if (!(error instanceof TypeError)) {
        throw error; // a fault of the page
      }
      if (performance.now() - lostAt > GIVE_UP_AFTER) {
        throw new Error("The server can't be reached. Check that it runs, and try again.");
      }
      tries += 1;
      this.onChange("The connection to the server was lost. Trying to go on…");
      const wait = (error.retryAfter ?? 0.25 * 2 ** (tries - 1)) * 1000;
      await this.#sleep(Math.min(wait, LONGEST_WAIT));
    }
  }

  /** Ends the answer on the server too, which would wait for its client to come back. */
  async cancel() {
    const headers = { "Idempotency-Key": this.#key };
    await call(`${PATH}/cancel`, { body: this.#sent, headers }).catch(() => {});
  }

  /** What one second brought, after the first piece; null where that can't be said. */
  get tokensPerSecond() {
    const tokens = (this.usage?.completion_tokens ?? 0) - 1;
    return tokens > 0 && this.last > this.first ? (tokens * 1000) / (this.last - this.first) : null;
  }

  #ask(body) {
    this.#sent = JSON.stringify(body);
    this.#key = randomName();
    this.#lastId = null;
  }

  async #request(isAgain) {
    const headers = { "Idempotency-Key": this.#key };
    if (this.#lastId !== null) headers["Last-Event-ID"] = this.#lastId;
    const response = await call(PATH, { body: this.#sent, headers, signal: this.signal });
    if (isAgain) {
      this.resumed += 1;
      this.onChange("");
    }
    if (!this.#body.stream) {
      const { choices, usage } = await response.json();
      this.#take({ choices: [{ ...choices[0], delta: choices[0].message }], usage });
      this.#complete = true;
      return;
    }
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      // Not a stream that was cut: asking again wouldn't help.
      throw new Error("Something before the server answers in its place. Load the page again.");
    }
    for await (const event of events(response)) {
      if (event.data === "[DONE]") {
        this.#complete = true;
        return;
      }
      this.#take(JSON.parse(event.data));
      if (event.id !== null) this.#lastId = event.id;
    }
  }

  #take({ choices, usage, error }) {
    if (error) throw new ApiError(0, error);
    if (usage) this.usage = this.#total(usage);
    const choice = choices[0];
    if (!choice) return;
    const { content, reasoning_content: reasoning, refusal, tool_calls: calls } = choice.delta ?? {};
    this.content += (content ?? "") + (refusal ?? "");
    this.reasoning += reasoning ?? "";
    for (const [position, call] of (calls ?? []).entries()) this.#takeCall(call, position);
    if (choice.finish_reason) this.finishReason = choice.finish_reason;
    if (content || reasoning || refusal || calls) {
      this.#pieces += 1;
      this.#isAskedAnew = false;
      this.last = performance.now();
      this.first ??= this.last;
      this.onChange("");
    }
  }

  #takeCall(call, position) {
    const one = (this.toolCalls[call.index ?? position] ??= { id: "", name: "", arguments: "" });
    one.id = call.id ?? one.id;
    one.name = call.function?.name ?? one.name;
    one.arguments += call.function?.arguments ?? "";
  }

  /** After an error that says that the stream is gone: prepares another request, if that helps. */
  #askAnew(error) {
    if (this.#isContinuation && error.status === 400) this.#restart(); // its engine can't
    else if (LOST.includes(error.code) && !this.#isAskedAnew) this.#continue();
    else return false;
    this.#isAskedAnew = true;
    this.onChange("The server has lost this answer. Asking the model to go on…");
    return true;
  }

  #continue() {
    const left = this.#maxTokens - this.#pieces;
    if (!this.content || this.toolCalls.length || left < 1) {
      this.#restart();
      return;
    }
    // A piece has at least one token; there is no better count of an answer that was lost.
    this.#before = this.#pieces;
    this.#isContinuation = true;
    const begun = { role: "assistant", content: this.content };
    this.#ask({
      ...this.#body,
      messages: [...this.#body.messages, begun],
      max_tokens: left,
      continue_final_message: true,
    });
  }

  #restart() {
    [this.content, this.reasoning, this.toolCalls] = ["", "", []];
    [this.#pieces, this.#before, this.#isContinuation] = [0, 0, false];
    this.#ask(this.#body);
  }

  /** The usage of an answer that was gone on with: its beginning was lost, and is an estimate. */
  #total(usage) {
    if (!this.#before) return usage;
    return {
      prompt_tokens: Math.max(usage.prompt_tokens - this.#before, 0),
      completion_tokens: usage.completion_tokens + this.#before,
      estimated: true,
    };
  }

  #sleep(milliseconds) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, milliseconds);
      const stop = () => {
        clearTimeout(timer);
        reject(new DOMException("stopped", "AbortError"));
      };
      this.signal.addEventListener("abort", stop, { once: true });
    });
  }
}
