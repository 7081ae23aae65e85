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


def teach_tools(chat_template: str) -> str:
    """Put the prelude before ``chat_template``, unless it renders tools by itself."""
    if re.search(r"\btools\b", chat_template):
        return chat_template
    prelude = files("reverie.runner").joinpath("tools.jinja").read_text(encoding="utf-8")
    return prelude + chat_template
