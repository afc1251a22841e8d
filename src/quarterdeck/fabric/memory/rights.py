"""What a principal may publish and subscribe, from the role templates that nats-server gets."""

from __future__ import annotations

from typing import Any

from quarterdeck.errors import Invalid
from quarterdeck.fabric.identity import NODE_ROLE, SERVER_ROLE
from quarterdeck.fabric.memory.interest import matches

_ROLES: dict[str, dict[str, Any]] = {"node": NODE_ROLE, "server": SERVER_ROLE}


class Rights:
    """The rights of one connection; remembers which replies it owes."""

    def __init__(self, who: str, role: str) -> None:
        template = _ROLES.get(role)
        if template is None:
            raise Invalid("bad_role", f"{role!r} is no role: use {' or '.join(_ROLES)}.")

        def filled(side: str) -> list[str]:
            return [allowed.replace("{{name()}}", who) for allowed in template[side]["allow"]]

        self._publish = filled("pub")
        self._subscribe = filled("sub")
        answers = template.get("resp", {})
        self._answers_max = int(answers.get("max", 0))
        self._answers_s = answers.get("ttl", 0) / 10**9
        self._owed: dict[str, tuple[int, float]] = {}

    def may_subscribe(self, subject: str) -> bool:
        """A wildcard must be inside what is allowed, so its own wildcards count as plain tokens."""
        return any(matches(allowed, subject) for allowed in self._subscribe)

    def received(self, reply: str, now: float) -> None:
        """A message with this reply subject was delivered: it may be answered."""
        if self._answers_max:
            for old in [one for one, (_, until) in self._owed.items() if until < now]:
                del self._owed[old]
            self._owed[reply] = (self._answers_max, now + self._answers_s)

    def may_publish(self, subject: str, now: float) -> bool:
        """Takes one answer off what it owes when there is no other right."""
        if any(matches(allowed, subject) for allowed in self._publish):
            return True
        left, until = self._owed.pop(subject, (0, 0.0))
        if not left or until < now:
            return False
        if left > 1:
            self._owed[subject] = (left - 1, until)
        return True
