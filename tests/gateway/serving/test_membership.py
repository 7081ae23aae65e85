"""Which engines join and which go, by what a view says."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from reverie.cluster.messages import Engine, View
from reverie.gateway.serving.membership import Changes, Known, changes
from tests.gateway.serving.fake_link import member


def view(
    *engines: Engine, complete: bool = True, ended: Sequence[str] = (), incarnation: str = "a"
) -> View:
    return View(incarnation, 1, complete, list(engines), list(ended))


def known(*engines: Engine, incarnation: str = "a") -> dict[str, Known]:
    return {one.name: Known(one, incarnation) for one in engines}


def found(members: dict[str, Known], told: View) -> Changes:
    return changes(members, told.engines, told, lambda _: True)


ONE, TWO = member(number=0), member(number=1)


def test_a_ready_engine_joins_at_once_whatever_else_the_view_lacks() -> None:
    assert found({}, view(ONE, complete=False)).joined == [ONE]


def test_an_engine_that_is_not_ready_leaves_or_has_ended_does_not_join() -> None:
    loading = member(number=0, state="loading")
    leaving = member(number=1, leaving=True)
    nowhere = member("", number=2)
    told = view(loading, leaving, nowhere, member(number=3), ended=["u3"])
    assert found({}, told) == Changes([], [], [], [])


def test_an_engine_that_runs_other_weights_does_not_join() -> None:
    assert changes({}, [ONE], view(ONE), lambda _: False).joined == []


def test_a_member_that_starts_anew_stays() -> None:
    restarting = member(number=0, state="restarting", revision=2)
    assert found(known(ONE), view(restarting)) == Changes([], [], [], [restarting])


def test_what_the_view_says_has_ended_goes_at_once() -> None:
    for complete in (True, False):
        told = view(complete=complete, ended=["u0"], incarnation="b")
        assert found(known(ONE, TWO), told).gone[:1] == ["m/0"]


def test_what_the_manager_that_listed_it_no_longer_lists_goes() -> None:
    assert found(known(ONE, TWO), view(TWO)).gone == ["m/0"]


def test_what_an_incomplete_view_lacks_stays() -> None:
    assert found(known(ONE), view(complete=False)) == Changes([], [], [], [])


def test_what_another_manager_does_not_list_is_doubtful() -> None:
    told = view(incarnation="b")
    assert found(known(ONE), told) == Changes([], [], ["m/0"], [])


def test_an_engine_with_a_members_name_replaces_it_once_it_is_ready() -> None:
    for incarnation in "ab":
        new = member("http://127.0.0.1:10/v1", number=0, uid="new")
        told = view(new, complete=False, incarnation=incarnation)
        assert found(known(ONE), told) == Changes([new], ["m/0"], [], [])
    starting = member(number=0, uid="new", state="loading")
    assert found(known(ONE), view(starting, complete=False)) == Changes([], [], [], [])


def test_an_engine_at_another_place_is_a_replacement() -> None:
    moved = member("http://127.0.0.1:10/v1", number=0)
    assert found(known(ONE), view(moved)) == Changes([moved], ["m/0"], [], [])
    moving = member("http://127.0.0.1:10/v1", number=0, state="loading")
    assert found(known(ONE), view(moving)) == Changes([], [], [], [])


def test_a_leaving_member_is_replaced_by_one_of_its_name_that_is_ready() -> None:
    leaving, new = member(number=0, leaving=True), member(number=0, uid="new")
    assert found(known(ONE), view(leaving, new)) == Changes([new], ["m/0"], [], [])
    assert found(known(ONE), view(ONE, new)) == Changes([], [], [], [ONE])


numbers = st.integers(0, 2)
engines = st.builds(
    member,
    st.sampled_from(["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1", ""]),
    numbers,
    st.sampled_from("pqr"),
    leaving=st.booleans(),
    state=st.sampled_from(["fetching", "loading", "ready", "restarting", "failed"]),
)
views = st.builds(
    View,
    st.sampled_from("ab"),
    st.integers(1, 9),
    st.booleans(),
    st.lists(engines, max_size=4),
    st.lists(st.sampled_from("pqr"), max_size=2),
)


@given(st.lists(views, max_size=8))
def test_no_view_removes_what_the_rules_do_not_end(told: list[View]) -> None:
    members: dict[str, Known] = {}
    for one in told:
        result = found(members, one)
        assert len(set(result.gone)) == len(result.gone)
        joined = {engine.name: engine for engine in result.joined}
        assert len(joined) == len(result.joined)
        listed = {(e.name, e.info.uid) for e in one.engines}
        for name in result.gone:
            before = members[name]
            ended = before.engine.info.uid in one.ended
            same_manager = one.complete and one.incarnation == before.incarnation
            missing = (name, before.engine.info.uid) not in listed
            assert ended or name in joined or (same_manager and missing)
        for engine in result.joined:
            assert engine.info.state == "ready"
            assert not engine.leaving
            assert engine.info.uid not in one.ended
        assert not set(result.doubtful) & (set(result.gone) | set(joined))
        for name in result.gone:
            del members[name]
        for engine in (*result.stayed, *result.joined):
            place = engine if engine.info.url else members[engine.name].engine
            members[engine.name] = Known(place, one.incarnation)
