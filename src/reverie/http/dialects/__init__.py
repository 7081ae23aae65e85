"""Events → bytes: what an answer looks like to each kind of client. No I/O."""

from reverie.http.dialects.chat import OPENAI
from reverie.http.dialects.livepeer import LIVEPEER

__all__ = ["LIVEPEER", "OPENAI"]
