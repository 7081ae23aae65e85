"""The cluster as its operator sees it."""

from __future__ import annotations

import json

from reverie.gateway.cluster_view import describe_cluster
from tests.gateway.cluster_views import NO_ROOM, SECRET, a_view, cluster_of, engine


def test_it_tells_of_machines_models_and_engines() -> None:
    cluster = cluster_of(a_view())
    cluster.since = 0.0
    told = describe_cluster(cluster)
    assert (told["connected"], told["why"]) == (True, None)
    assert told["since"] == "1970-01-01T00:00:00Z"
    assert told["manager"] == {"reverie": "1.2.3", "gateways": 2}
    assert [
        (one["address"], one["alive"], one["draining"], one["engines"]) for one in told["machines"]
    ] == [("10.0.0.2", True, False, 2), ("10.0.0.3", True, True, 2), ("10.0.0.4", False, False, 0)]
    [model] = told["models"]
    assert model == {
        "model": "m",
        "least": 1,
        "most": 5,
        "wanted": 4,
        "running": 2,
        "starting": 1,
        "failed": 0,
        "leaving": 1,
        "in_flight": 9,
        "waiting": 2,
        "why": NO_ROOM,
        "seconds_to_ready": None,
    }
    assert [one["name"] for one in told["engines"]] == ["m/2", "m/3", "m/4", "m/10"]
    assert told["engines"][1]["url"] is None


def test_it_tells_no_key_and_no_folder_of_a_machine() -> None:
    told = json.dumps(describe_cluster(cluster_of(a_view())))
    assert SECRET not in told
    assert "/srv" not in told
    assert "It loads m.gguf." in told


def test_without_a_manager_it_tells_why_and_what_was_known_last() -> None:
    told = describe_cluster(cluster_of(a_view(), "The head at 10.0.0.1:6379 doesn't answer."))
    assert (told["connected"], told["why"]) == (False, "The head at 10.0.0.1:6379 doesn't answer.")
    assert len(told["engines"]) == 4
    nothing = describe_cluster(cluster_of(why="It isn't there."))
    assert (nothing["manager"], nothing["engines"], nothing["machines"]) == (None, [], [])


def test_where_only_some_are_listed_those_in_trouble_come_first() -> None:
    engines = [engine(f"m/{number}") for number in range(5)]
    failed = engine("m/5", "failed", why="No such file.")
    told = describe_cluster(cluster_of(a_view(engines=[*engines, failed])), most=2)
    assert [one["name"] for one in told["engines"]] == ["m/5", "m/0"]
    assert [one["address"] for one in told["machines"]] == ["10.0.0.3", "10.0.0.4"]
    assert told["unlisted"] == {"machines": 1, "engines": 4}
    assert (told["models"][0]["running"], told["models"][0]["failed"]) == (5, 1)
