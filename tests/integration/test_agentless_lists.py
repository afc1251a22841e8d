"""The lists of agentless nodes on their way: one server brings each, none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from quarterdeck.control.main import Server
from quarterdeck.control.orders import TIMEOUT_S
from quarterdeck.core.agentless import Agentless
from quarterdeck.wire import subjects
from quarterdeck.wire.agentless import AgentlessKept, AgentlessReport, KeepAgentless
from quarterdeck.wire.run import Orders
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import DEADLINE_S, HandNode, heard_of, serving


def keeping(orders: Orders) -> tuple[AgentlessKept, ...]:
    (wanted,) = orders.items
    assert isinstance(wanted, KeepAgentless)
    return (AgentlessKept(version=wanted.version),)


async def add(server: Server, via: HandNode, host: str) -> None:
    await server.agentless.add(
        Agentless(
            id="",
            via=via.id,
            name=host,
            place=f"u@{host}:22",
            created_at=server.clock.now(),
            created_by="test",
        )
    )


async def say(node: HandNode, version: str) -> None:
    beat = node.beat_bytes(agentless=AgentlessReport(version=version))
    await node.fabric.publish(subjects.beat(node.id), beat)


def reports(server: Server, node: HandNode) -> Callable[[], asyncio.Event]:
    """Fires when a server has taken the next report of a node."""
    waiting: list[asyncio.Event] = []

    def heard(id: str, _report: AgentlessReport) -> None:
        if id == node.id:
            while waiting:
                waiting.pop().set()

    server.fleet.agentless_heard.append(heard)

    def following() -> asyncio.Event:
        waiting.append(asyncio.Event())
        return waiting[-1]

    return following


async def test_a_node_that_does_not_answer_holds_up_no_list_of_another(place: Harbour) -> None:
    async with serving(place) as (server, _):
        nodes = [HandNode(place, server, name) for name in ("one", "two", "three")]
        for node in nodes:
            await node.join()
            await heard_of(node, server)
        deaf, *others = sorted(nodes, key=lambda node: node.id)
        for node in nodes:
            following = reports(server, node)()
            await say(node, "")
            await asyncio.wait_for(following.wait(), DEADLINE_S)
        await add(server, deaf, "far")
        await deaf.orders.get()
        for node in others:
            node.answer = keeping
            await add(server, node, "near")
        async with asyncio.timeout(TIMEOUT_S / 2):
            for node in others:
                await node.orders.get()
        for node in nodes:
            await node.fabric.stop()


async def test_of_two_servers_only_the_home_of_a_node_brings_its_list_and_only_once(
    place: Harbour,
) -> None:
    async with serving(place, "one") as (one, _), serving(place, "two") as (two, _):
        await one.leases.round()
        node = HandNode(place, one, "hub")
        node.answer = keeping
        await node.join()
        for server in (one, two):
            await heard_of(node, server)
        both = [reports(server, node) for server in (one, two)]
        async with asyncio.timeout(DEADLINE_S):  # each has heard of the other
            while one.leases.mine(node.id) == two.leases.mine(node.id):
                await asyncio.gather(one.leases.round(), two.leases.round())
        other = two if one.leases.mine(node.id) else one
        got: list[Orders] = []
        for host in ("first", "second"):
            told = [following() for following in both]
            await say(node, "")
            await asyncio.gather(*(asyncio.wait_for(one.wait(), DEADLINE_S) for one in told))
            await add(other, node, host)
            async with asyncio.timeout(DEADLINE_S):
                got.append(await node.orders.get())
            for _ in range(2):  # the beats go on before they name the list
                told = [following() for following in both]
                await say(node, "")
                await asyncio.gather(*(asyncio.wait_for(one.wait(), DEADLINE_S) for one in told))
                await other.database.read(lambda _: None)
        assert node.orders.empty()
        lists = [msgspec.structs.astuple(orders)[0][0] for orders in got]
        assert [len(wanted.nodes) for wanted in lists] == [1, 2]
        await node.fabric.stop()
