"""Who is who on the fabric: the authority that mints NATS JWTs, and each principal's own key.

One operator signs two accounts: QD (all traffic of the fleet) and the system account. The rights
of nodes and servers are not in their own JWTs but in two *scoped signing keys* (roles) of account
QD: a JWT signed by a role's key has exactly the rights of the role's template, in which nats-server
replaces `{{name()}}` by the name in the JWT, here the node id. So node ids are checked before
minting: a node named `*` would turn its template into a wildcard.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from quarterdeck.core.ids import TOKEN
from quarterdeck.errors import Broken, Conflict, Denied, Invalid, Unavailable
from quarterdeck.fabric import jwt
from quarterdeck.fabric.jwt import Kind, NKey, verify
from quarterdeck.service import sync_folder, write_private
from quarterdeck.wire import subjects

__all__ = ["Authority", "Identity", "check_id", "verify"]

_ANSWER_WITHIN_NS = 120 * 10**9
_UNLIMITED = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
}
_JETSTREAM_UNLIMITED = {
    "mem_storage": -1,
    "disk_storage": -1,
    "streams": -1,
    "consumer": -1,
}

NODE_ROLE: dict[str, Any] = {
    "pub": {
        "allow": [
            *subjects.spoken_by("{{name()}}"),
        ]
    },
    "sub": {"allow": [*subjects.heard_by("{{name()}}")]},
    # One answer to each request, within two minutes of it.
    "resp": {"max": 1, "ttl": _ANSWER_WITHIN_NS},
    "subs": -1,
    "data": -1,
    "payload": -1,
}
SERVER_ROLE: dict[str, Any] = {
    "pub": {"allow": [">"]},
    "sub": {"allow": [">"]},
    "subs": -1,
    "data": -1,
    "payload": -1,
}
# A leaf carries what nodes and servers say to each other; it gives no orders (they are signed
# besides), and asks nothing of JetStream.
_LEAF_MAY: dict[str, Any] = {
    "pub": {"deny": ["cmd.>", "live.>", "trace.>", "$JS.>", "$SYS.>"]},
    # what is denied to be heard is not asked for either, so all that nodes send must be allowed
    "sub": {"deny": ["live.>", "trace.>", "$JS.>", "$SYS.>"]},
    "allowed_connection_types": ["LEAFNODE", "LEAFNODE_WS"],
    "subs": -1,
    "data": -1,
    "payload": -1,
}
_KEYS = {
    "operator": Kind.OPERATOR,
    "account": Kind.ACCOUNT,
    "system": Kind.ACCOUNT,
    "node": Kind.ACCOUNT,
    "server": Kind.ACCOUNT,
}


class Requester(Protocol):
    """The part of a fabric that an account update needs (of a system account user)."""

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes: ...


def check_id(name: str) -> str:
    """The id itself, or `Invalid`: it becomes a token of subjects and of permission templates."""
    if not TOKEN.fullmatch(name):
        raise Invalid(
            "bad_id",
            f"{name!r} can't be an id on the fabric: use 1 to 64 letters, digits, '-' or '_'.",
        )
    return name


class Identity:
    """One principal's own nkey: a node's or server's login, or a server's envelope key."""

    def __init__(self, key: NKey) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path) -> Identity:
        """Load the seed file, or make it (mode 600). Two first users at once get the same key."""
        with contextlib.suppress(FileNotFoundError):
            return cls(NKey(path.read_text().strip()))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        write_private(fresh, _seed_of(Kind.USER))
        try:
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink()
        sync_folder(path.parent)
        return cls(NKey(path.read_text().strip()))

    @classmethod
    def fresh(cls) -> Identity:
        """A key that lives only as long as the process."""
        return cls(NKey.create(Kind.USER))

    @property
    def public_key(self) -> str:
        """The nkey text `U...`."""
        return self._key.public_key

    @property
    def seed(self) -> str:
        """The secret, for the credentials file that nats-server reads."""
        return self._key.seed

    def sign(self, data: bytes) -> bytes:
        """Ed25519 over the bytes as they are: 64 bytes."""
        return self._key.sign(data)


class _Record(msgspec.Struct):
    """What changes in account QD: JWTs of a key issued at or before the time are void."""

    issued: int = 1
    revoked: dict[str, int] = msgspec.field(default_factory=dict)
    roles: dict[str, Any] = msgspec.field(default_factory=dict)


class Authority:
    """Operator, both accounts and the role keys, kept in one directory (700, files 600)."""

    def __init__(self, directory: Path, keys: dict[str, NKey]) -> None:
        self._directory = directory
        self._keys = keys

    @classmethod
    def open(cls, directory: Path) -> Authority:
        """Load the directory, or make it whole (by rename: a crash leaves nothing half made)."""
        if not (directory / "account.json").exists():
            cls._create(directory)
        keys: dict[str, NKey] = {}
        for name, kind in _KEYS.items():
            path = directory / f"{name}.nk"
            try:
                keys[name] = NKey(path.read_text().strip())
            except FileNotFoundError as error:
                raise Broken(
                    "authority_incomplete",
                    f"{path} is missing: restore it from a backup.",
                ) from error
            if not jwt.is_public_key(keys[name].public_key, kind):
                raise Broken(
                    "authority_broken",
                    f"{path} holds a key of another kind: restore it from a backup of the key "
                    "directory.",
                )
        authority = cls(directory, keys)
        if authority._read().roles != _roles():
            # A newer release has other templates: the account must look newer than the old one.
            with authority._changing() as record:
                record.roles = _roles()
        return authority

    @classmethod
    def _create(cls, directory: Path) -> None:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        for name, kind in _KEYS.items():
            write_private(fresh / f"{name}.nk", _seed_of(kind))
        record = msgspec.json.encode(_Record(roles=_roles()))
        write_private(fresh / "account.json", record)
        try:
            os.rename(fresh, directory)
        except OSError as error:
            for path in fresh.iterdir():
                path.unlink()
            fresh.rmdir()
            if not (directory / "account.json").exists():
                raise Conflict(
                    "authority_directory",
                    f"{directory} exists and is not empty but holds no authority: "
                    "name another directory or empty this one.",
                ) from error
        sync_folder(directory.parent)

    @property
    def account(self) -> str:
        """Public key of account QD."""
        return self._keys["account"].public_key

    @property
    def system_account(self) -> str:
        """Public key of the system account."""
        return self._keys["system"].public_key

    @property
    def operator_jwt(self) -> str:
        operator = self._keys["operator"]
        claims = {
            "sub": operator.public_key,
            "iat": 1,
            "name": "quarterdeck",
            "nats": {
                "type": "operator",
                "version": 2,
                "system_account": self.system_account,
            },
        }
        return jwt.encode(operator, claims)

    @property
    def account_jwt(self) -> str:
        """Account QD with its roles and revocations, as of the last change by any process."""
        record = self._read()
        body: dict[str, Any] = {
            "limits": {**_UNLIMITED, **_JETSTREAM_UNLIMITED},
            "signing_keys": [
                {
                    "kind": "user_scope",
                    "key": self._keys[role].public_key,
                    "role": role,
                    "template": template,
                }
                for role, template in record.roles.items()
            ],
        }
        if record.revoked:
            body["revocations"] = record.revoked
        return self._account(self.account, "QD", record.issued, body)

    @property
    def system_account_jwt(self) -> str:
        return self._account(self.system_account, "SYS", 1, {"limits": _UNLIMITED})

    def _account(self, subject: str, name: str, issued: int, body: dict[str, Any]) -> str:
        claims = {
            "sub": subject,
            "iat": issued,
            "name": name,
            "nats": {"type": "account", "version": 2, **body},
        }
        return jwt.encode(self._keys["operator"], claims)

    def mint_node(self, node_id: str, public_key: str, *, now: int, ttl_s: int) -> str:
        """The login of a node: the rights of role `node` over its own subjects only."""
        return self._mint("node", node_id, public_key, now=now, ttl_s=ttl_s)

    def mint_server(self, server_id: str, public_key: str, *, now: int, ttl_s: int) -> str:
        """The login of a server: everything inside account QD."""
        return self._mint("server", server_id, public_key, now=now, ttl_s=ttl_s)

    def mint_leaf(self, name: str, public_key: str, *, now: int, ttl_s: int) -> str:
        """The login of a leaf node: it carries messages between its nodes and the fabric."""
        # Signed by the account itself, so the rights are in the JWT and not in a role.
        return self._user("account", name, public_key, now, ttl_s, _LEAF_MAY)

    def mint_system(self, name: str, public_key: str, *, now: int, ttl_s: int) -> str:
        """A login to the system account: account updates and connection events."""
        # Signed by the account itself, so the limits are in the JWT and not in a role.
        unlimited = {"subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        return self._user("system", name, public_key, now, ttl_s, unlimited)

    def _mint(self, role: str, name: str, public_key: str, *, now: int, ttl_s: int) -> str:
        return self._user(role, name, public_key, now, ttl_s, {"issuer_account": self.account})

    def _user(
        self,
        signer: str,
        name: str,
        public_key: str,
        now: int,
        ttl_s: int,
        body: dict[str, Any],
    ) -> str:
        if not jwt.is_public_key(public_key, Kind.USER):
            raise Invalid(
                "bad_key",
                f"The key of {name!r} is no public user nkey (U...): give the agent an empty state "
                "directory, where it makes one.",
            )
        if ttl_s <= 0:
            raise Invalid(
                "bad_ttl",
                f"The login of {name!r} must be valid for at least a second: check the clock here.",
            )
        claims = {
            "sub": public_key,
            "iat": now,
            "exp": now + ttl_s,
            "name": check_id(name),
            "nats": {"type": "user", "version": 2, **body},
        }
        return jwt.encode(self._keys[signer], claims)

    def revoke(self, revoked: Mapping[str, int], *, prune_before: int, now: int) -> bool:
        """Void the JWTs of each key issued at its time (Unix seconds) or before; forget what is
        older than `prune_before`, when every JWT it was about has expired. The account is issued
        `now`. Whether anything changed.

        Takes effect when `push_account` has sent it, or at the next start of the fabric.
        """

        def merged(present: Mapping[str, int]) -> dict[str, int]:
            later = {key: max(at, present.get(key, 0)) for key, at in revoked.items()}
            return _after({**present, **later}, prune_before)

        present = self._read().revoked
        if merged(present) == present:
            return False
        with self._changing() as record:
            record.revoked = merged(record.revoked)
            record.issued = max(record.issued, now)
        return True

    def _read(self) -> _Record:
        # Read each time: the supervisor must not bring back what a server has revoked.
        return msgspec.json.decode((self._directory / "account.json").read_bytes(), type=_Record)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Record]:
        handle = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            record = self._read()
            yield record
            # nats-servers of a cluster keep the account with the later issue time.
            record.issued += 1
            write_private(self._directory / "account.json", msgspec.json.encode(record))
        finally:
            os.close(handle)

    async def push_account(self, fabric: Requester, *, timeout_s: float = 5.0) -> None:
        """Send account QD to the running fabric through a link of the system account."""
        data = await fabric.request(
            "$SYS.REQ.CLAIMS.UPDATE", self.account_jwt.encode(), timeout_s=timeout_s
        )
        answer = msgspec.json.decode(data, type=dict[str, Any])
        if "error" in answer:
            raise Denied(
                "account_refused",
                f"The fabric refused the account update: {answer['error'].get('description')}. "
                "Check that it was started from this authority.",
            )
        if answer.get("data", {}).get("account") != self.account:
            raise Unavailable(
                "account_update",
                "The fabric did not confirm the account update: try again.",
            )


def _roles() -> dict[str, Any]:
    return {"node": NODE_ROLE, "server": SERVER_ROLE}


def _after(revoked: Mapping[str, int], before: int) -> dict[str, int]:
    return {key: at for key, at in revoked.items() if at >= before}


def _seed_of(kind: Kind) -> bytes:
    """A fresh key as it lies in a file."""
    return f"{NKey.create(kind).seed}\n".encode()
