"""Leases as dialogues: who may take what, when, and which server a key belongs to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.core.lease import (
    HOLD_S,
    MEMBER,
    TAKE_AFTER_S,
    Lease,
    Seen,
    alive,
    holds,
    home,
    look,
    may_take,
)

ROW = Lease(duty="due", holder="s1", term=3, beat=7)


def member(id: str, beat: int = 0, holder: str | None = None) -> Lease:
    return Lease(duty=MEMBER + id, holder=id if holder is None else holder, term=1, beat=beat)


def test_a_row_that_moves_is_new_and_one_that_does_not_stays_as_old_as_it_was() -> None:
    first = look(None, ROW, 10.0)
    assert first == Seen(lease=ROW, since=10.0)
    assert look(first, ROW, 12.0) is first
    moved = Lease(duty="due", holder="s1", term=3, beat=8)
    assert look(first, moved, 12.0) == Seen(lease=moved, since=12.0)


def test_a_lease_nobody_has_is_taken_at_once() -> None:
    assert may_take(None, "s2", 0.0)
    free = Lease(duty="due", holder="", term=3, beat=7)
    assert may_take(Seen(lease=free, since=5.0), "s2", 5.0)


def test_a_lease_that_moves_is_left_alone_and_one_that_stands_still_is_taken() -> None:
    seen = Seen(lease=ROW, since=100.0)
    assert not may_take(seen, "s2", 100.0 + TAKE_AFTER_S - 0.01)
    assert may_take(seen, "s2", 100.0 + TAKE_AFTER_S)


def test_a_server_takes_its_own_lease_back_after_a_restart() -> None:
    assert may_take(Seen(lease=ROW, since=100.0), "s1", 100.0)


@given(st.floats(0, 1e6), st.floats(0, 60), st.floats(0, 60))
def test_a_holder_stops_before_anybody_may_take_over(
    began: float, commit_s: float, later_s: float
) -> None:
    """The holder counts from the begin of its write, the other from seeing it, which is later."""
    seen = Seen(lease=ROW, since=began + commit_s)
    now = began + commit_s + later_s
    assert not (holds(began, now) and may_take(seen, "s2", now))


def test_nothing_written_is_nothing_held() -> None:
    assert not holds(None, 0.0)
    assert holds(1.0, 1.0 + HOLD_S - 0.01)
    assert not holds(1.0, 1.0 + HOLD_S)


def test_servers_are_alive_while_their_rows_move_and_until_they_say_goodbye() -> None:
    seen = [
        Seen(lease=member("b"), since=100.0),
        Seen(lease=member("a"), since=99.0),
        Seen(lease=member("dead"), since=100.0 - TAKE_AFTER_S),
        Seen(lease=member("gone", holder=""), since=100.0),
        Seen(lease=ROW, since=100.0),
    ]
    assert alive(seen, 100.0) == ["a", "b"]


@given(st.sets(st.text(min_size=1, max_size=8), max_size=5), st.text(max_size=40))
def test_all_servers_agree_where_a_key_belongs(servers: set[str], key: str) -> None:
    found = home(servers, key)
    assert found == home(sorted(servers, reverse=True), key)
    assert (found is None) == (not servers)
    for other in servers - {found}:
        assert home(servers - {other}, key) == found, "it moves only when its own server goes"


def test_keys_are_spread_over_the_servers() -> None:
    homes = [home(["a", "b", "c"], f"key {n}") for n in range(3000)]
    assert all(900 < homes.count(server) < 1100 for server in ("a", "b", "c"))
