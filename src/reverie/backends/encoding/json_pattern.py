"""A JSON Schema's patterns: which of them an engine reads as they are meant; formats as patterns.

Patterns are ECMAScript's. Rule: what another grammar reads differently (a nested class, ``&&``, an
inline flag) is refused like what it can't do at all (lookaround, backreferences), for an engine
that reads a pattern wrongly constrains to something else.
"""

from __future__ import annotations

import re

_ESCAPE = (
    r"\\(?:[dDwWsSfnrtv]|x[0-9a-fA-F]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}"
    r"|[-!\"#$%&'()*+,./:;=?@\[\\\]^`{|}~])"
)
_TOKEN = re.compile(
    rf"(?P<atom>{_ESCAPE}|\[\^?(?:{_ESCAPE}|(?!&&|--|~~|\|\|)[^\\\[\]])+\]|[^\\\[\](){{}}*+?|^$])"
    r"|(?P<open>\((?:\?:)?(?!\?))|(?P<close>\))|(?P<either>\|)"
    r"|(?P<repeat>(?:[*+?]|\{[0-9]{1,4}(?:,[0-9]{0,4})?\})\??)"
    r"|(?P<start>\^)|(?P<end>\$)",
    re.DOTALL,
)
_DOT = r"[^\n\r\u2028\u2029]"
"""What ``.`` means in ECMAScript; elsewhere it matches more."""

_DATE = (
    "[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    "|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_TIME = (
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_HOST = f"{_LABEL}([.]{_LABEL}){{0,3}}"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"

FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "uuid": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "email": f"^[A-Za-z0-9_%+-]+([.][A-Za-z0-9_%+-]+)*@{_HOST}$",
    "hostname": f"^{_HOST}$",
    "duration": "^P(?:[0-9]{1,4}W|[0-9]{1,4}D|(?:[0-9]{1,4}D)?T[0-9]{1,5}(?:H|M|S))$",
    "ipv6": "^(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$",
    "ipv4": f"^{_BYTE}[.]{_BYTE}[.]{_BYTE}[.]{_BYTE}$",
    "uri": f"^[a-z][a-z0-9+.-]*://{_HOST}(:[0-9]{{1,4}})?(/[A-Za-z0-9._~-]*)*([?][A-Za-z0-9._~=&-]*)?$",
}
"""Each format as a pattern that both of llama.cpp's converters read correctly.

A pattern may allow less than its format, never more: no 29th of February, no URI without a host.
"""

_LONGEST = 2_000

_PLAIN = re.compile(
    r"\^(?:(?:[A-Za-z0-9 _@:,/]"
    r"|\[(?:[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]|[A-Za-z0-9 _.@:,/])+-?\])"
    r"(?:[*+?]|\{[0-9]{1,2}(?:,[0-9]{0,2})?\})?)*\$"
)


_ZOD_EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]"
    r"@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)
_WITHOUT_LOOKAHEAD = {
    _ZOD_EMAIL: r"^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+\-]"
    r"@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
}
_DECIMAL = re.compile(
    r"\^\(\?!\^\[-\+\.\]\*\$\)\[\+-\]\?0\*\\d(\*|\{0,([0-9]{1,3})\})(.*)", re.DOTALL
)


def without_lookahead(pattern: str) -> str:
    """The two patterns with a look-ahead that libraries write, without it; others as they are.

    That is zod's for an email address, which means the same then, and pydantic's for a ``Decimal``,
    which demands a digit before the point then.
    """
    decimal = _DECIMAL.fullmatch(pattern)
    if decimal is not None:
        whole = {"*": r"\d+", "{0,0}": "0"}.get(decimal[1], rf"\d{{1,{decimal[2]}}}")
        return rf"^[+-]?{whole}{decimal[3]}"
    return _WITHOUT_LOOKAHEAD.get(pattern, pattern)


def portable(pattern: str) -> str | None:
    """The pattern, so written that ECMAScript, Python and Rust read it alike; None if it can't be.

    An anchor may stand only at an end of a branch.
    """
    if len(pattern) > _LONGEST:
        return None
    depth = 0
    before = "open"
    tokens: list[str] = []
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            return None
        kind = token.lastgroup or ""
        if before == "end" and kind not in ("close", "either"):
            return None
        if kind == "start" and before not in ("open", "either"):
            return None
        if kind == "repeat" and before not in ("atom", "close"):
            return None
        depth += (kind == "open") - (kind == "close")
        if depth < 0:
            return None
        tokens.append(_DOT if token[0] == "." else token[0])
        before, at = kind, token.end()
    return "".join(tokens) if depth == 0 and _compiles(pattern) else None


def plain(pattern: str) -> str | None:
    """The pattern if it is anchored and has only ASCII letters, digits and classes; else None.

    llama.cpp's own converter takes more but misreads some of it in silence: its ``.`` and its
    negated classes match the quote that ends the string.
    """
    return pattern if _PLAIN.fullmatch(pattern) and _compiles(pattern) else None


def _compiles(pattern: str) -> bool:
    """False for ranges and counts in the wrong order."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
