"""What gateways ask for counts while they live, and the latest configuration holds."""

from __future__ import annotations

from reverie.cluster.demand import Gateway, Gateways, load_of, running_on
from reverie.cluster.messages import Demand, Loads, Report
from tests.cluster.launcher import wanted


def report(name: str, waiting: int = 0, in_flight: int = 0, **more: object) -> Report:
    of = {"running": {}, **more}
    return Report(name, {"m": Demand(in_flight, waiting)}, **of)  # type: ignore[arg-type]


def test_demand_is_that_of_the_gateways_that_live() -> None:
    gateways = Gateways()
    gateways.report(report("a", 2, 1, running={"u": 3}), 0.0)
    gateways.report(report("b", 4, running={"u": 1, "v": 9}), 3.0)
    living = gateways.living(4.0)
    assert (load_of(living)["m"].waiting, load_of(living)["m"].in_flight) == (6, 1)
    assert running_on("u", living) == 4
    living = gateways.living(6.0)
    assert (load_of(living)["m"].waiting, running_on("u", living)) == (4, 1)
    assert gateways.living(9.0) == []


def test_only_the_first_request_that_waits_is_urgent() -> None:
    gateways = Gateways()
    urgent = [gateways.report(report("a", waiting), 0.0) for waiting in (0, 1, 2, 0, 1)]
    assert urgent == [False, True, False, False, True]


def test_the_configuration_of_the_highest_generation_holds_whoever_told_last() -> None:
    gateways = Gateways()
    gateways.deploy("a", [wanted(bounds="5", generation=2)], 0.0)
    gateways.deploy("b", [wanted(bounds="1", generation=1), wanted("n")], 0.0)
    found = gateways.wanted(gateways.living(1.0))
    assert (found["m"].least, set(found)) == (5, {"m", "n"})


def test_a_gateway_that_crashes_with_a_new_configuration_does_not_bring_the_old_one_back() -> None:
    gateways = Gateways()
    gateways.deploy("a", [wanted(bounds="5", generation=2), wanted("n")], 0.0)
    for now in (0.0, 10.0, 59.0, 61.0):
        gateways.deploy("b", [wanted(bounds="1", generation=1)], now)
        found = gateways.wanted(gateways.living(now))
        assert found["m"].least == (5 if now < 60 else 1)
        assert ("n" in found) == (now < 5)  # nobody who lives lists it


def test_a_gateway_holds_an_engine_until_it_has_applied_the_view_and_ends_its_requests() -> None:
    gateway = Gateway("a", 0.0, incarnation="i", version=4)
    assert not gateway.holds("u", "i", 4)
    assert gateway.holds("u", "i", 5)
    assert gateway.holds("u", "another", 4)
    gateway.running = {"u": 1}
    assert gateway.holds("u", "i", 4)


def test_a_gateway_is_told_what_the_others_that_live_run_and_not_what_it_runs_itself() -> None:
    gateways = Gateways()
    gateways.report(report("gone", in_flight=9, running={"u": 9}), 0.0)
    gateways.report(report("a", in_flight=3, running={"u": 3}), 4.0)
    gateways.report(report("b", in_flight=5, running={"u": 1, "v": 4}), 4.0)
    gateways.report(report("waits", waiting=1), 4.0)
    gateways.report(report("idle"), 4.0)
    assert gateways.others("a", 6.0) == Loads({"u": 1, "v": 4}, {"m": 2})
    assert gateways.others("idle", 6.0) == Loads({"u": 4, "v": 4}, {"m": 3})
