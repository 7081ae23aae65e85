"""Teaches a chat template to render tools.

llama.cpp honours ``tools`` only where the model's chat template renders them, and drops them in
silence elsewhere. The prelude (``tools.jinja``) rewrites ``messages`` when there are tools or tool
calls, in the Hermes format that many small models know, and leaves them untouched otherwise.
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
"""What llama.cpp uses for a model that brings no chat template."""

_REFUSES_SYSTEM = re.compile(r"raise_exception\([^)]*system[^)]*not supported", re.IGNORECASE)
"""How the templates of Gemma and its like treat a system message."""


def teach_tools(chat_template: str) -> str:
    """Put the prelude before ``chat_template``, unless it renders tools by itself."""
    if re.search(r"\btools\b", chat_template):
        return chat_template
    takes_system = _REFUSES_SYSTEM.search(chat_template) is None
    setting = f"{{%- set takes_system = {str(takes_system).lower()} -%}}\n"
    prelude = files("reverie.runner").joinpath("tools.jinja").read_text(encoding="utf-8")
    return setting + prelude + chat_template
