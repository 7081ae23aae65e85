// The request on screen as a command or a program that sends it. The user's key is never in it.

import { html, Component, CopyButton } from "./view.js";

/** Longer ones of images are cut where the request is shown. */
const LONGEST_URL = 200;
/** A command can't have a longer argument: Linux takes 128 KiB. */
const LONGEST_ARGUMENT = 100_000;
const SHELL_KEY = "$REVERIE_API_KEY";

/** What OpenAI's SDK for Python knows by itself; the rest goes into `extra_body`. */
const OPENAI_FIELDS = [
  "messages", "model", "temperature", "max_tokens", "top_p", "stream", "stream_options", "stop",
  "seed", "presence_penalty", "frequency_penalty", "reasoning_effort",
];
/** What Livepeer's SDK has; it reads no streams. */
const LIVEPEER_FIELDS = ["messages", "model", "temperature", "max_tokens", "top_p", "top_k"];

/** Each form: its name, and what makes it of the server's address, the body, and whether there is
 * a key. */
export const FORMS = {
  curl: (base, body, hasKey) => {
    const lines = [
      `curl ${body.stream ? "-N " : ""}${shell(`${base}v1/chat/completions`)}`,
      ...(hasKey ? [`-H "Authorization: Bearer ${SHELL_KEY}"`] : []),
      "-H 'Content-Type: application/json'",
    ];
    const sent = JSON.stringify(body, null, 2);
    if (sent.length < LONGEST_ARGUMENT) return [...lines, `-d ${shell(sent)}`].join(BREAK);
    return `${[...lines, "--data-binary @- <<'END'"].join(BREAK)}\n${sent}\nEND`;
  },

  Python: (base, body, hasKey) => {
    const known = Object.entries(body).filter(([name]) => OPENAI_FIELDS.includes(name));
    const extra = Object.entries(body).filter(([name]) => !OPENAI_FIELDS.includes(name));
    const lines = known.map(([name, value]) => `    ${name}=${python(value, 1)},`);
    if (extra.length) lines.push(`    extra_body=${python(Object.fromEntries(extra), 1)},`);
    return `${pythonKey(hasKey)}from openai import OpenAI

client = OpenAI(base_url=${python(`${base}v1`)}, api_key=${hasKey ? "KEY" : '"none"'})
answer = client.chat.completions.create(
${lines.join("\n")}
)
${body.stream ? PYTHON_STREAM : "print(answer.choices[0].message.content)"}
`;
  },

  JavaScript: (base, body, hasKey) => {
    const authorization = "Authorization: `Bearer ${process.env.REVERIE_API_KEY}`, ";
    return `const response = await fetch(${JSON.stringify(`${base}v1/chat/completions`)}, {
  method: "POST",
  headers: { ${hasKey ? authorization : ""}"Content-Type": "application/json" },
  body: JSON.stringify(${indented(JSON.stringify(body, null, 2), 1)}),
});
if (!response.ok) throw new Error(await response.text());
${body.stream ? JAVASCRIPT_STREAM : JAVASCRIPT_WHOLE}
`;
  },

  "Livepeer SDK": (base, body, hasKey) => {
    const fields = Object.entries(body).filter(([name]) => LIVEPEER_FIELDS.includes(name));
    const messages = body.messages.map(({ role, content }) => ({ role, content: textOf(content) }));
    const request = { ...Object.fromEntries(fields), messages, stream: false };
    const missing = Object.keys(body).filter(
      (name) => !(name in request) && name !== "stream_options",
    );
    if (body.messages.some(({ content }) => Array.isArray(content))) missing.push("images");
    const note = missing.length ? `# The SDK has no ${missing.join(", ")}.\n` : "";
    return `${note}${pythonKey(hasKey)}from livepeer_ai import Livepeer

with Livepeer(
    server_url=${python(base.replace(/\/$/, ""))}, http_bearer=${hasKey ? "KEY" : '"none"'}
) as livepeer:
    answer = livepeer.generate.llm(request=${python(request, 1)})
    print(answer.llm_response.choices[0].message.content)
`;
  },
};

const BREAK = " \\\n  ";

const PYTHON_STREAM = `for chunk in answer:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)`;

const JAVASCRIPT_WHOLE = `const answer = await response.json();
console.log(answer.choices[0].message.content);`;

const JAVASCRIPT_STREAM = `let rest = "";
for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + part).split("\\n");
  rest = lines.pop();
  for (const line of lines) {
    if (!line.startsWith("data: {")) continue;
    const chunk = JSON.parse(line.slice(6));
    if (chunk.error) throw new Error(chunk.error.message);
    process.stdout.write(chunk.choices[0]?.delta.content ?? "");
  }
}`;

const textOf = (content) =>
  Array.isArray(content) ? content.map(({ text = "" }) => text).join("") : content;

const isLong = ({ image_url: image }) => image?.url.length > LONGEST_URL;

const hasLongImages = ({ messages }) =>
  messages.some(({ content }) => Array.isArray(content) && content.some(isLong));

/** The body with the data: URLs of its images cut. */
function shortened(body) {
  const cut = (part) =>
    isLong(part) ? { ...part, image_url: { url: `${part.image_url.url.slice(0, 60)}…` } } : part;
  const messages = body.messages.map((one) =>
    Array.isArray(one.content) ? { ...one, content: one.content.map(cut) } : one);
  return { ...body, messages };
}

const pythonKey = (hasKey) =>
  hasKey ? 'import os\n\nKEY = os.environ["REVERIE_API_KEY"]\n' : "";

const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

const indented = (text, depth) => text.replaceAll("\n", `\n${"  ".repeat(depth)}`);

/** A value of JSON as Python writes it. JSON's strings are Python's. */
function python(value, depth = 0) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((one) => python(one, depth + 1))
    : Object.entries(value).map(([k, one]) => `${JSON.stringify(k)}: ${python(one, depth + 1)}`);
  if (!items.length) return isList ? "[]" : "{}";
  const inner = items.map((item) => `\n${"    ".repeat(depth + 1)}${item},`).join("");
  return `${isList ? "[" : "{"}${inner}\n${"    ".repeat(depth)}${isList ? "]" : "}"}`;
}

/** The forms, one of which is shown. `request` is the body that is on screen. */
export class CopyAs extends Component {
  state = { form: "curl" };

  render({ base, request, hasKey }) {
    const write = (body) => FORMS[this.state.form](base, body, hasKey);
    const choose = (event) => this.setState({ form: event.target.value });
    return html`<details class="copy-as">
      <summary>Copy as…</summary>
      <label for="copy-form">This conversation's request as</label>
      <div class="row">
        <select id="copy-form" value=${this.state.form} onChange=${choose}>
          ${Object.keys(FORMS).map((name) => html`<option>${name}</option>`)}
        </select>
        <${CopyButton} label="Copy" text=${() => write(request)} />
      </div>
      ${hasLongImages(request) && html`<p class="hint">Images are cut short here. They are copied whole.</p>`}
      <pre id="copy-text" tabindex="0" role="region"
        aria-label="The request">${write(shortened(request))}</pre>
    </details>`;
  }
}
