// What is asked of the server: a conversation, a model and the settings → a request's body.

import { fieldsOf } from "./controls.js";

/** The body of the request that answers this conversation. `model` is one of `models()`. */
export function requestOf(conversation, model, settings) {
  const told = conversation.messages
    .map(({ role, content, images }) => ({ role, content: contentOf(content, images) }))
    .filter(({ content }) => content.length);
  const system = conversation.system.trim();
  const messages = system ? [{ role: "system", content: system }, ...told] : told;
  const body = { model: model.id, messages, ...fieldsOf(settings, model.defaults) };
  if (body.stream) body.stream_options = { include_usage: true };
  return body;
}

/** The body of what "Send" would send; with nothing written, of what the last answer was asked
 * with. `draft` is a message that isn't sent yet. */
export function requestOnScreen(conversation, draft, model, settings) {
  const messages = [...conversation.messages];
  if (draft.content.trim() || draft.images.length) messages.push({ role: "user", ...draft });
  else while (messages.at(-1)?.role === "assistant") messages.pop();
  return requestOf({ ...conversation, messages }, model, settings);
}

/** A text; with images, OpenAI's parts, as models read them best: the images first. */
function contentOf(text, images = []) {
  const parts = images
    .filter(({ url }) => url)
    .map(({ url }) => ({ type: "image_url", image_url: { url } }));
  if (!parts.length) return text;
  return text ? [...parts, { type: "text", text }] : parts;
}
