// Colours for code: a few languages, by the names that models write.

import core from "./vendor/highlight/core.mjs";
import bash from "./vendor/highlight/bash.mjs";
import c from "./vendor/highlight/c.mjs";
import cpp from "./vendor/highlight/cpp.mjs";
import css from "./vendor/highlight/css.mjs";
import diff from "./vendor/highlight/diff.mjs";
import go from "./vendor/highlight/go.mjs";
import ini from "./vendor/highlight/ini.mjs";
import java from "./vendor/highlight/java.mjs";
import javascript from "./vendor/highlight/javascript.mjs";
import json from "./vendor/highlight/json.mjs";
import markdown from "./vendor/highlight/markdown.mjs";
import python from "./vendor/highlight/python.mjs";
import rust from "./vendor/highlight/rust.mjs";
import sql from "./vendor/highlight/sql.mjs";
import typescript from "./vendor/highlight/typescript.mjs";
import xml from "./vendor/highlight/xml.mjs";
import yaml from "./vendor/highlight/yaml.mjs";

const LANGUAGES = {
  bash, c, cpp, css, diff, go, ini, java, javascript,
  json, markdown, python, rust, sql, typescript, xml, yaml,
};
const LARGEST = 50_000;

for (const [name, grammar] of Object.entries(LANGUAGES)) core.registerLanguage(name, grammar);

/** The code as HTML with spans; null for a language that isn't known, and for very long code. */
export function highlight(code, language) {
  if (code.length > LARGEST || !core.getLanguage(language)) return null;
  return core.highlight(code, { language, ignoreIllegals: true }).value;
}
