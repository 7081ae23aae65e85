// Conversations and settings, in this browser's storage and nowhere else.
//
// Each conversation has an entry of its own, so that two tabs don't overwrite each other's. Its
// images are kept elsewhere, see kept_images.js.

import { randomName } from "./api.js";

const PREFIX = "reverie.conversation.";
const SETTINGS = "reverie.settings";
const ROLES = ["user", "assistant"];
const IMAGE_URL = /^data:image\/(?:jpeg|png|webp|gif);base64,[A-Za-z0-9+/]+={0,2}$/;
const FORMAT = "reverie-conversations";

const read = (name) => {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null; // switched off, or not ours
  }
};

/** Writes an entry; false if there is no room, or storage is switched off. */
const write = (name, value) => {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
};

export const loadSettings = () => read(SETTINGS) ?? {};
export const saveSettings = (settings) => write(SETTINGS, settings);

export const newConversation = () => ({
  id: randomName(),
  changed: Date.now(),
  system: "",
  messages: [],
});

/** All conversations, the one that changed last first. */
export function loadConversations() {
  let names = [];
  try {
    names = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
  } catch {
    // storage is switched off
  }
  const found = names.map(read).map(asConversation).filter(Boolean);
  return found.sort((a, b) => b.changed - a.changed);
}

/** Keeps a conversation, unless it is still empty; false if there is no room for it. */
export function saveConversation(conversation) {
  if (!conversation.messages.length && !conversation.system) return true;
  return write(PREFIX + conversation.id, withoutUrls(conversation));
}

const withoutUrls = ({ messages, ...rest }) => ({
  ...rest,
  messages: messages.map((one) =>
    one.images ? { ...one, images: one.images.map(({ id, alt }) => ({ id, alt })) } : one),
});

export function deleteConversation({ id }) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    // storage is switched off: there is nothing to delete
  }
}

/** What a list shows of a conversation. */
export function titleOf({ messages }) {
  const asked = messages.find(({ role }) => role === "user");
  const first = asked?.content.trim() || asked?.images?.[0]?.alt || "";
  if (first.length > 60) return `${first.slice(0, 59)}…`;
  return first || (asked ? "An image" : "New conversation");
}

export const exportText = (conversations) =>
  JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);

/** The conversations of an exported file, under ids of their own.
 * Throws an `Error` whose message is for people. */
export function importText(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("This file holds no JSON.");
  }
  if (content?.format !== FORMAT || !Array.isArray(content.conversations)) {
    throw new Error("This file holds no conversations that were exported here.");
  }
  const found = content.conversations.map(asConversation);
  if (found.includes(null)) throw new Error("A conversation in this file is damaged.");
  return found.map((conversation) => ({ ...conversation, id: randomName() }));
}

/** A conversation of known shape; null if the value is none. */
function asConversation(value) {
  if (typeof value?.id !== "string" || !Array.isArray(value.messages)) return null;
  const messages = value.messages.map(asMessage);
  if (messages.includes(null)) return null;
  return {
    id: value.id,
    changed: Number(value.changed) || 0,
    system: text(value.system),
    messages,
  };
}

function asMessage(value) {
  if (!ROLES.includes(value?.role) || typeof value.content !== "string") return null;
  const { role, content } = value;
  if (role === "user") {
    const images = Array.isArray(value.images) ? value.images.map(asImage).filter(Boolean) : [];
    return images.length ? { role, content, images } : { role, content };
  }
  return {
    role,
    content,
    reasoning: text(value.reasoning),
    toolCalls: Array.isArray(value.toolCalls) ? value.toolCalls.map(asCall) : [],
    model: text(value.model),
    figures: text(value.figures),
    error: text(value.error),
  };
}

/** An image; null if it is none. A file may hold any URL: only the image itself is taken. */
function asImage(value) {
  if (typeof value?.id !== "string") return null;
  const image = { id: value.id, alt: text(value.alt) };
  return IMAGE_URL.test(value.url) ? { ...image, url: value.url } : image;
}

const asCall = (call) => ({
  id: text(call?.id),
  name: text(call?.name),
  arguments: text(call?.arguments),
});

const text = (value) => (typeof value === "string" ? value : "");
