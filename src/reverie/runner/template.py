"""Teaches a chat template to render tools.

llama.cpp honours ``tools`` only if the model's chat template renders them, and silently drops them
otherwise. The prelude (``tools.jinja``) rewrites ``messages`` that have tools or tool calls in the
Hermes format, which many small models know. It leaves other messages untouched.
"""

from __future__ import annotations

import re
from importlib.resources import files

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""What llama.cpp uses for a model without a chat template."""

_REFUSES_SYSTEM = re.compile(r"raise_exception\([^)]*system[^)]*not supported", re.IGNORECASE)
"""Found in templates that refuse system messages, such as Gemma's."""


def teach_tools(chat_template: str) -> str:
    """Prepend the prelude to ``chat_template``, unless it renders tools itself."""
    if re.search(r"\btools\b", chat_template):
        return chat_template
    takes_system = _REFUSES_SYSTEM.search(chat_template) is None
    setting = f"{{%- set takes_system = {str(takes_system).lower()} -%}}\n"
    prelude = files("reverie.runner").joinpath("tools.jinja").read_text(encoding="utf-8")
    return setting + prelude + chat_template
