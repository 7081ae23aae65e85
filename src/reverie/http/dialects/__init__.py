"""Events → bytes: what an answer looks like to each kind of client. No I/O."""

from reverie.http.dialects.chat import OPENAI
from reverie.http.dialects.completions import COMPLETIONS
from reverie.http.dialects.livepeer import LIVEPEER
from reverie.http.dialects.messages import MESSAGES
from reverie.http.dialects.ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from reverie.http.dialects.responses import RESPONSES

__all__ = [
    "COMPLETIONS",
    "LIVEPEER",
    "MESSAGES",
    "OLLAMA_CHAT",
    "OLLAMA_GENERATE",
    "OPENAI",
    "RESPONSES",
]
