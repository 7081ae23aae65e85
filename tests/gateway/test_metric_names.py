"""The table of metrics: names in Prometheus' form, and a page that lists exactly them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reverie.gateway.metric_names import TABLE, Definition

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize("metric", TABLE.values(), ids=lambda metric: metric.name)
def test_a_name_says_its_kind_and_its_unit(metric: Definition) -> None:
    assert re.fullmatch(r"(reverie|process|gen_ai_server)_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    if metric.kind == "histogram":
        assert metric.name.endswith("_seconds")
    if metric.kind != "gauge":
        assert metric.merge == "sum"
    assert metric.meaning.endswith(".")
    assert {"le", "instance", "job", "quantile"}.isdisjoint(metric.labels)


def test_the_page_on_metrics_lists_exactly_those_of_the_table() -> None:
    listed = re.findall(r"^\| `(\w+)(?:\{([\w,]*)\})?` \|", PAGE.read_text(), re.MULTILINE)
    assert listed == [(one.name, ",".join(one.labels)) for one in TABLE.values()]
