"""Events → bytes: what an answer looks like to each kind of client. No I/O."""

from reverie.http.dialects.livepeer import Livepeer
from reverie.http.dialects.openai import OpenAI

__all__ = ["Livepeer", "OpenAI"]
