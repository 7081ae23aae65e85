// Markdown → nodes. Text of models and users becomes HTML here and nowhere else.
//
// Three walls: HTML in the text is shown as text; what Markdown makes is sanitised down to a short
// list of elements and attributes; and the page's Content-Security-Policy runs no script and loads
// nothing from elsewhere, whatever gets past the two.

import DOMPurify from "./vendor/purify.mjs";
import { Marked } from "./vendor/marked.mjs";
import { highlight } from "./highlight.js";
import { copyText } from "./view.js";

const TAGS = [
  "p", "br", "hr", "em", "strong", "del", "code", "pre", "blockquote", "a", "ul", "ol", "li",
  "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "span",
];
const RULES = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "title", "class", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const LANGUAGE = /^language-[\w+#.-]{1,30}$/;

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

const escape = (text) =>
  text.replace(/[&<>"']/g, (character) => `&#${character.codePointAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    // A picture would be fetched from wherever the text says: only told of.
    image: ({ href, text }) => escape(`[image: ${text || href}]`),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** The nodes of a text in Markdown, as a fragment. */
export function markdown(text) {
  const fragment = DOMPurify.sanitize(marked.parse(text), RULES);
  for (const node of fragment.querySelectorAll("[class]")) {
    const isLanguage = node.nodeName === "CODE" && LANGUAGE.test(node.className);
    if (!isLanguage) node.removeAttribute("class"); // it could look like a part of the page
  }
  for (const code of fragment.querySelectorAll("pre > code")) frame(code);
  for (const table of fragment.querySelectorAll("table")) scrollable(table, "Table");
  return fragment;
}

/** Gives a block of code its colours, its language and a button to copy it. */
function frame(code) {
  const text = code.textContent;
  const language = code.className.replace("language-", "");
  const coloured = highlight(text, language);
  if (coloured) code.replaceChildren(DOMPurify.sanitize(coloured, RULES));
  const pre = code.parentElement;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = "Copy code";
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(text)) ? "Copied" : "Not copied";
    setTimeout(() => (button.textContent = "Copy code"), 2000);
  });
  const bar = document.createElement("div");
  bar.className = "code-bar";
  const name = document.createElement("span");
  name.textContent = language;
  bar.append(name, button);
  const block = document.createElement("div");
  block.className = "code-block";
  pre.replaceWith(block);
  block.append(bar, pre);
  pre.tabIndex = 0; // so that the keyboard can scroll it
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
}

function scrollable(node, label) {
  const around = document.createElement("div");
  around.className = "scrolls";
  around.tabIndex = 0;
  around.setAttribute("role", "region");
  around.setAttribute("aria-label", label);
  node.replaceWith(around);
  around.append(node);
}
