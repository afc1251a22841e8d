"""The brake on failures: it grows, has a top, forgets, and is bounded."""

from __future__ import annotations

import pytest

from quarterdeck.core.brake import FORGET_S, FREE, MAX_ADDRESSES, MAX_WAIT_S, Brake, place


def test_the_first_failures_cost_nothing_and_each_further_one_twice_as_much() -> None:
    brake = Brake()
    for _ in range(FREE):
        assert brake.wait_s("10.0.0.1", 100.0) == 0
        brake.failed("10.0.0.1", 100.0)
    assert brake.wait_s("10.0.0.1", 100.0) == 0
    waits = []
    for _ in range(12):
        brake.failed("10.0.0.1", 100.0)
        waits.append(brake.wait_s("10.0.0.1", 100.0))
    assert waits[:4] == [1, 2, 4, 8] and waits[-1] == MAX_WAIT_S
    assert brake.wait_s("10.0.0.1", 100.0 + 20) == MAX_WAIT_S - 20
    assert brake.wait_s("10.0.0.1", 100.0 + MAX_WAIT_S) == 0
    assert brake.wait_s("10.0.0.2", 100.0) == 0


def test_a_success_and_time_make_it_forget() -> None:
    brake = Brake()
    for _ in range(FREE + 5):
        brake.failed("10.0.0.1", 0.0)
        brake.failed("10.0.0.2", 0.0)
    brake.passed("10.0.0.1")
    assert brake.wait_s("10.0.0.1", 0.0) == 0 < brake.wait_s("10.0.0.2", 0.0)
    brake.failed("10.0.0.2", FORGET_S)  # the first one again
    assert brake.wait_s("10.0.0.2", FORGET_S) == 0


def test_it_remembers_the_last_addresses_only() -> None:
    brake = Brake()
    for n in range(MAX_ADDRESSES + 100):
        for _ in range(FREE + 1):
            brake.failed(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 0.0)
    assert len(brake) == MAX_ADDRESSES
    assert brake.wait_s("10.0.0.0", 0.0) == 0 < brake.wait_s("10.0.16.99", 0.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("no address", "no address", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_of_ipv6_a_whole_network_is_one_address(one: str, other: str, same: bool) -> None:
    assert (place(one) == place(other)) is same
