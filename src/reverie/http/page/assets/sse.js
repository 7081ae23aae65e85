// Server-sent events, sans I/O: text in, complete events out.

/** Parses a stream that may be cut anywhere, also between the two characters of a line's end. */
export class SseParser {
  #rest = "";
  #data = [];
  #id = null;

  /** The events `{id, data}` that the text completes. `id` is null where an event has none. */
  feed(text) {
    const events = [];
    this.#rest += text;
    let begin = 0;
    for (;;) {
      const end = this.#lineEnd(begin);
      if (end < 0) break;
      this.#take(this.#rest.slice(begin, end), events);
      begin = end + (this.#rest.startsWith("\r\n", end) ? 2 : 1);
    }
    this.#rest = this.#rest.slice(begin);
    return events;
  }

  /** Where the next line ends; -1 if that isn't known yet. */
  #lineEnd(begin) {
    for (let at = begin; at < this.#rest.length; at++) {
      const character = this.#rest[at];
      if (character === "\n") return at;
      // A carriage return at the very end may be half of a line's end.
      if (character === "\r") return at + 1 < this.#rest.length ? at : -1;
    }
    return -1;
  }

  #take(line, events) {
    if (line === "") {
      if (this.#data.length) events.push({ id: this.#id, data: this.#data.join("\n") });
      this.#data = [];
      this.#id = null;
      return;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "id") this.#id = value;
    // A line that begins with a colon is a comment: its name is empty.
  }
}

/** The events of a response's body, as they arrive. */
export async function* events(response) {
  const parser = new SseParser();
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
