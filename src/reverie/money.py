"""Prices and budgets as people write them ↔ integers.

An amount is an integer number of nano-units (1 USD = 10⁹). A price is written per million tokens:
``0.18USD`` is 180 nano-units per token. A price that isn't a whole number of nano-units per token
is refused, since it couldn't be kept exactly.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias, get_args

from msgspec import Struct

NANO = 10**9
_PER_MILLION = 10**6
_MAX_UNITS = 10**9
"""No price or budget is larger, so that sums of the ledger stay far within 64 bits."""
_AMOUNT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([A-Z]{3,5})")

Period: TypeAlias = Literal["day", "month"]


class Amount(NamedTuple):
    """Money."""

    nano: int
    currency: str


class Budget(NamedTuple):
    """Money that may be spent in each period (UTC)."""

    nano: int
    currency: str
    period: Period


class Price(Struct, frozen=True):
    """Nano-units per token."""

    input: int = 0
    cached: int = 0
    output: int = 0
    currency: str = ""

    def cost(self, prompt: int, cached: int, completion: int) -> int:
        """What so many tokens cost, in nano-units; ``cached`` tokens are among ``prompt``."""
        fresh = max(0, prompt - cached)
        return fresh * self.input + cached * self.cached + completion * self.output

    def most(self, prompt: int, completion: int) -> int:
        """The most that so many tokens can cost, however many of them are cached."""
        return prompt * max(self.input, self.cached) + completion * self.output


FREE = Price()


def parse_amount(text: str) -> Amount:
    """Read ``10USD``.

    Raises:
        ValueError: it says how to write one.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or (value := Decimal(match[1])) > _MAX_UNITS:
        raise ValueError(f"write an amount (at most {_MAX_UNITS}) and a currency, as in 0.18USD")
    return Amount(int(value * NANO), match[2])


def parse_price(text: str) -> Amount:
    """Read a price per million tokens; return nano-units per token.

    Raises:
        ValueError: it says how to write one.
    """
    amount = parse_amount(text)
    if amount.nano % _PER_MILLION:
        raise ValueError("a price has at most three decimals per million tokens, as in 0.125USD")
    return Amount(amount.nano // _PER_MILLION, amount.currency)


def parse_budget(text: str) -> Budget:
    """Read ``10USD/month``.

    Raises:
        ValueError: it says how to write one.
    """
    amount, _, period = text.strip().partition("/")
    if period not in get_args(Period):
        raise ValueError("write an amount per day or month, as in 10USD/month")
    nano, currency = parse_amount(amount)
    return Budget(nano, currency, period)  # type: ignore[arg-type]


def format_amount(nano: int, currency: str) -> str:
    """Write an amount exactly, with at least two decimals: ``0.18 USD``."""
    sign = "-" if nano < 0 else ""
    units, fraction = divmod(abs(nano), NANO)
    decimals = f"{fraction:09}".rstrip("0").ljust(2, "0")
    return f"{sign}{units}.{decimals} {currency}".strip()


def price_to_json(price: Price) -> dict[str, str] | None:
    """What a million tokens cost, each as it is written: ``0.18``; None if all are free."""
    each = {"input": price.input, "cached": price.cached, "output": price.output}
    if not any(each.values()):
        return None
    written = {name: format_amount(nano * _PER_MILLION, "") for name, nano in each.items()}
    return {"currency": price.currency, **written}


def format_budget(budget: Budget) -> str:
    """Write a budget as ``parse_budget`` reads it: ``10.00 USD/month``."""
    return f"{format_amount(budget.nano, budget.currency)}/{budget.period}"
