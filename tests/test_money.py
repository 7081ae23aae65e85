from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.money import (
    Amount,
    Budget,
    Price,
    format_amount,
    format_budget,
    parse_amount,
    parse_budget,
    parse_price,
    price_to_json,
)


@pytest.mark.parametrize(
    ("written", "nano", "currency"),
    [
        ("10USD", 10_000_000_000, "USD"),
        ("0.18 EUR", 180_000_000, "EUR"),
        (" 0.000000001USDC ", 1, "USDC"),
        ("0USD", 0, "USD"),
        ("1000000000USD", 10**18, "USD"),
    ],
)
def test_an_amount_is_read_exactly(written: str, nano: int, currency: str) -> None:
    assert parse_amount(written) == Amount(nano, currency)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "10",
        "USD",
        "10usd",
        "-1USD",
        "1.USD",
        ".5USD",
        "1e3USD",
        "1,5USD",
        "0.0000000001USD",
        "1000000001USD",
        "10 \nUSD",
        "10USD/month",
        "NaNUSD",
        "1_0USD",
        "١USD",
        "10USDOLLAR",
    ],
)
def test_a_wrong_amount_is_answered_with_how_to_write_it(written: str) -> None:
    with pytest.raises(ValueError, match=r"write an amount .* as in 0\.18USD"):
        parse_amount(written)


def test_a_price_is_kept_per_token() -> None:
    assert parse_price("0.18USD") == Amount(180, "USD")
    assert parse_price("0.001USD") == Amount(1, "USD")


def test_a_price_that_would_be_rounded_is_refused() -> None:
    with pytest.raises(ValueError, match="at most three decimals per million tokens"):
        parse_price("0.0005USD")


def test_a_budget_names_its_period() -> None:
    assert parse_budget("10USD/month") == Budget(10**10, "USD", "month")
    assert parse_budget(" 0.50 EUR/day ") == Budget(500_000_000, "EUR", "day")


@pytest.mark.parametrize(
    "written", ["10USD", "10USD/", "10USD/year", "10USD/Month", "10USD/day/day"]
)
def test_a_wrong_period_is_answered_with_how_to_write_it(written: str) -> None:
    with pytest.raises(ValueError, match="as in 10USD/month"):
        parse_budget(written)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0.00 USD"),
        (1, "0.000000001 USD"),
        (180_000_000, "0.18 USD"),
        (10**9, "1.00 USD"),
        (-1_500_000_000, "-1.50 USD"),
        (9_007_199_254_740_993, "9007199.254740993 USD"),  # more digits than a float holds
    ],
)
def test_an_amount_is_written_exactly(nano: int, text: str) -> None:
    assert format_amount(nano, "USD") == text


@given(st.integers(0, 10**18), st.sampled_from(["USD", "EUR", "USDC"]))
def test_what_is_written_is_read_back_as_it_was(nano: int, currency: str) -> None:
    assert parse_amount(format_amount(nano, currency)) == Amount(nano, currency)
    for period in ("day", "month"):
        budget = Budget(nano, currency, period)
        assert parse_budget(format_budget(budget)) == budget


@pytest.mark.parametrize("written", ["0.18", "12.00", "0.001", "1000000.00"])
def test_a_price_is_written_as_it_was_read(written: str) -> None:
    nano = parse_price(f"{written}USD").nano
    told = price_to_json(Price(input=nano, currency="USD"))
    assert told == {"currency": "USD", "input": written, "cached": "0.00", "output": "0.00"}
