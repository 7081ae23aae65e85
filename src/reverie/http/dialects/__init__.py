"""Events → bytes: what an answer looks like to each kind of client. No I/O."""

from reverie.http.dialects.chat import OPENAI
from reverie.http.dialects.livepeer import LIVEPEER
from reverie.http.dialects.messages import MESSAGES
from reverie.http.dialects.ollama import OLLAMA_CHAT, OLLAMA_GENERATE

__all__ = ["LIVEPEER", "MESSAGES", "OLLAMA_CHAT", "OLLAMA_GENERATE", "OPENAI"]
