"""What a model's use costs, and what all its callers may use together."""

from __future__ import annotations

from reverie.money import Price, parse_price
from reverie.settings import ModelSettings, PriceSettings
from reverie.store.limits import RateLimits


class Terms:
    """Of one model, as the ledger wants them."""

    def __init__(self, settings: ModelSettings) -> None:
        self.names = (settings.name, *settings.aliases)
        self.price = _price(settings.price)
        limits = settings.limits
        self.limits = RateLimits(limits.rpm, limits.tpm, limits.concurrency)


def _price(settings: PriceSettings) -> Price:
    read = parse_price(settings.input)
    cached = parse_price(settings.cached or settings.input)
    return Price(read.nano, cached.nano, parse_price(settings.output).nano, read.currency)
