"""A small fleet that targets are tried on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from quarterdeck.core.model import Facts, Node

NOW = datetime(2031, 5, 6, tzinfo=UTC)


def node(name: str, id: str, labels: Mapping[str, str], os: str = "debian", **more: object) -> Node:
    plain = Node(
        id=id,
        name=name,
        public_key="U" + id,
        created_at=NOW,
        last_seen=NOW,
        labels=labels,
        facts=Facts(os=os),
    )
    return msgspec.structs.replace(plain, **more)


FLEET = [
    node("web1", "n1", {"env": "prod", "group": "web,edge"}),
    node("web2", "n2", {"env": "test", "group": "web"}),
    node("db1", "n3", {"env": "prod", "group": "db"}, os="ubuntu"),
    node("db2", "n4", {"env": "prod", "group": "db,edge", "tier": "1"}),
    node("twin", "n5", {}),
    node("twin", "n6", {}),
]
