"""Settings of every kind of process: file < environment < flag; the only reader of the environment.

An unknown key or a wrong value is an error that names the file or variable and suggests the key
that was probably meant.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from quarterdeck.errors import Invalid

S = TypeVar("S", bound="Settings")

PREFIX = "QD_"
POSTGRES = "postgresql://"
LOCAL = "127.0.0.1,::1"
INGEST = ("rtail", "logio", "logio4", "syslog")
DEFAULT_LISTEN = "127.0.0.1:7333"
DEFAULT_FABRIC_LISTEN = "127.0.0.1:4222"
_FABRIC = re.compile(r"\s*(nats|tls|wss?)://[^\s,/@]+(/[^\s,]*)?\s*")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RANGES = (
    ("heartbeat_s", 0.1, 3600),
    ("nodes", 0, 1000),
    ("trace_window_s", 10, 86_400),
    ("trace_window_mib", 1, 16_384),
    ("trace_kept_mib", 1, 1 << 20),
)


class Secret:
    """A value that must not show up in logs, reprs or error pages."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __bool__(self) -> bool:
        return bool(self._value)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the settings of one process kind."""


class ServingSettings(Settings, frozen=True, kw_only=True):
    """What a server is told by its own settings, or by those of `qd up`, which hands them on."""

    data: str = ""
    database: Secret = Secret("")
    listen: str = DEFAULT_LISTEN
    log_level: str = "info"
    min_free_mib: int = 64
    out_max_mib: int = 2048
    max_streams: int = 1000
    trace_window_s: float = 3600.0
    trace_window_mib: int = 64
    trace_kept_mib: int = 1024
    ingest: str = ""
    ingest_namespace: str = "default"
    cors_origins: str = ""
    frame_ancestors: str = ""
    metrics: Literal["auto", "open", "token"] = "auto"
    tls_cert: str = ""
    tls_key: str = ""
    plain_http: bool = False
    public_url: str = ""
    package: str = "quarterdeck"
    downloads: str = ""
    fabric_public_url: str = ""
    websocket_public_url: str = ""
    max_links: int = 10_000
    trusted_proxies: str = LOCAL


class ServerSettings(ServingSettings, frozen=True, kw_only=True):
    """`qd server`. `data` holds what is this server's own: its key, and unless told otherwise the
    archive and SQLite. `database` is the address of a PostgreSQL
    (`postgresql://USER:PASSWORD@HOST:PORT/NAME`); several servers share one of these, one
    `archive` directory and one `keys` directory.

    `tls_cert` and `tls_key` are PEM files (default beyond loopback: made in `data`), `public_url`
    is where others reach the API, `fabric_public_url` where nodes reach the fabric (default: the
    host they reach the API at). `trusted_proxies` are addresses and networks, separated by commas.
    `fabric_ca` is the PEM file the fabric is verified with: default
    the installation's own, `system` for those of the machine. `ingest` says where senders of other
    tools are heard (`rtail=HOST:PORT,logio=...,logio4=...,syslog=...`, port 0: a free one), they
    become traces of `ingest_namespace`.
    """

    fabric_url: str = ""
    fabric_ca: str = ""
    websocket_url: str = ""
    keys: str = ""
    archive: str = ""


MAX_SLOTS = 100_000


class AgentSettings(Settings, frozen=True, kw_only=True):
    """`qd agent`. `state` is the node's own directory; `join` and `token` enrol it once. `fabric`
    says how the fabric is reached: `auto` (TCP, and where that does not get through WebSocket),
    `tcp`, `wss`, or the addresses of one (a leaf node), separated by commas. `slots` is how many
    attempts the node takes at once (0: two for each CPU).
    """

    state: str = ""
    join: str = ""
    token: Secret = Secret("")
    name: str = ""
    labels: dict[str, str] = {}
    log_level: str = "info"
    min_free_mib: int = 64
    heartbeat_s: float = 5.0
    slots: int = 0
    fabric: str = "auto"
    server_ca: str = ""


class UpSettings(ServingSettings, frozen=True, kw_only=True):
    """`qd up`. `nodes` agents, named after the host; `database` as of a server. `fabric_listen` is
    HOST:PORT (default: the host of `listen`, and a free port that is kept).
    `ingest` as of a server."""

    nodes: int = 1
    heartbeat_s: float = 5.0
    fabric_listen: str = ""


class FabricSettings(Settings, frozen=True, kw_only=True):
    """`qd fabric`. `data` holds what is on its way, in `fabric`, and unless told otherwise `keys`,
    which are made at the first start. `public_url` (`tls://HOST:PORT`) is where others reach it:
    its name goes into the certificate. `min_free_mib` must be free before a fabric whose disk was
    full is started anew. With `leaf_of`, the URL of a server, it is the leaf node of a site: a
    fabric without streams that leads to the one of that server; `token` admits it.
    """

    data: str = ""
    keys: str = ""
    listen: str = DEFAULT_FABRIC_LISTEN
    public_url: str = ""
    min_free_mib: int = 64
    websocket_listen: str = ""
    leaf_of: str = ""
    token: Secret = Secret("")
    server_ca: str = ""


class ClientSettings(Settings, frozen=True, kw_only=True):
    """Where the command line finds its server. `fingerprint` pins its certificate."""

    url: str = ""
    token: Secret = Secret("")
    data: str = ""
    fingerprint: str = ""


def load(
    kind: type[S],
    *,
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> S:
    """Settings of `kind` from an optional TOML file, `QD_*` variables, and flags that are not None.

    Raises Invalid with a sentence for unknown keys and values of the wrong type.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_from_file(kind, Path(file)))
    sources: tuple[dict[str, Any], ...] = (
        _from_environment(kind, os.environ if environ is None else environ),
        {key: value for key, value in (flags or {}).items() if value is not None},
    )
    for nearer in sources:
        labels = values.get("labels")
        values.update(nearer)
        if isinstance(labels, dict) and "labels" in nearer:
            values["labels"] = {**labels, **nearer["labels"]}
    try:
        settings = msgspec.convert(values, kind, strict=False, dec_hook=_secret)
    except msgspec.ValidationError as error:
        raise Invalid(
            "settings", f"{_source(kind, error, file)}: {error}. Correct it there."
        ) from error
    _check(settings)
    return settings


def default_data() -> str:
    """Where `qd up` keeps everything unless told otherwise."""
    if os.geteuid() == 0:
        return "/var/lib/quarterdeck"
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return str(Path(home) / "quarterdeck")


def default_state() -> str:
    """Where `qd agent` keeps what is its own unless told otherwise; `qd up` has `agents/`."""
    return str(Path(default_data()) / "agent")


def client_file() -> Path:
    """The CLI's own settings file; it need not exist."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "quarterdeck" / "config.toml"


def host_name() -> str:
    """The machine's name, made fit for a node name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()) or "node"


def split_listen(listen: str) -> tuple[str, int]:
    """(host, port) of `HOST:PORT` or `[V6]:PORT`. Raises Invalid."""
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise Invalid("listen", f"{listen!r} is not an address to listen on: write HOST:PORT.")
    return host.strip("[]") or "0.0.0.0", int(port)


def join_listen(host: str, port: int) -> str:
    """`HOST:PORT` or `[V6]:PORT`: what `split_listen` takes apart, and the place in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def proxies(text: str) -> tuple[str, ...]:
    """The addresses and networks in `trusted_proxies`. Raises Invalid."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    try:
        return tuple(str(ipaddress.ip_network(word)) for word in found)
    except ValueError as error:
        said = f"trusted_proxies holds what is no address or network ({error})"
        raise Invalid("settings", f"{said}: write 10.0.0.7, 10.1.0.0/16, with commas.") from error


def is_wildcard(host: str) -> bool:
    """Whether it stands for every address of this machine."""
    return host in ("0.0.0.0", "::")


def reachable_host(host: str) -> str:
    """Where this machine reaches what listens on `host`: a wildcard by loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(kind: type, value: object) -> object:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError(f"expected text, not {type(value).__name__}")


def _source(kind: type[Settings], error: msgspec.ValidationError, file: str | None) -> str:
    """Where a value that can't be used may have come from."""
    found = re.search(r"\$\.(\w+)", str(error))
    if found is None:
        return "A setting has a wrong value"
    places = [f"the variable {PREFIX}{found[1].upper()}", "the flag"]
    if file is not None:
        places.insert(0, f"{found[1]!r} in {file}")
    return f"The setting {found[1]} (from {' or '.join(places)}) has a wrong value"


def _from_file(kind: type[Settings], path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        text = f"The settings file {path} does not exist: check --config, or leave it out."
        raise Invalid("settings", text) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        text = f"The settings file {path} can't be read ({error}): see that it is TOML and yours."
        raise Invalid("settings", text) from error
    for key in values:
        if key not in kind.__struct_fields__:
            close = get_close_matches(key, kind.__struct_fields__, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else "Take it out."
            raise Invalid("settings", f"{path}: {key!r} is not a setting. {hint}")
    return values


def _from_environment(kind: type[Settings], environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        field: environ[PREFIX + field.upper()]
        for field in kind.__struct_fields__
        if environ.get(PREFIX + field.upper())
    }
    if "labels" in found:
        found["labels"] = read_labels(found["labels"].split(","), f"The variable {PREFIX}LABELS")
    return found


def read_labels(pairs: Iterable[str], where: str) -> dict[str, str]:
    """Labels from words `KEY=VALUE`; a group that is given again is one more. Raises Invalid."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            raise Invalid("settings", f"{where} holds {pair!r}: a label is written KEY=VALUE.")
        labels[key] = f"{labels[key]},{value}" if key == "group" and key in labels else value
    return labels


def ingest_places(text: str) -> dict[str, tuple[str, int]]:
    """Where the senders of each protocol are heard: the setting `ingest`. Raises Invalid."""
    places: dict[str, tuple[str, int]] = {}
    for word in filter(None, map(str.strip, text.split(","))):
        protocol, _, where = (part.strip() for part in word.partition("="))
        if protocol not in INGEST or protocol in places:
            said = f"ingest holds {word!r}: write PROTOCOL=HOST:PORT, with commas, each once"
            raise Invalid("settings", f"{said}; protocols are {', '.join(INGEST)}.")
        try:
            places[protocol] = split_listen(where)
        except Invalid as error:
            raise Invalid("settings", f"ingest, {protocol}: {error.message}") from error
    return places


def _check(settings: Settings) -> None:
    listen = getattr(settings, "listen", None)
    if listen is not None:
        split_listen(listen)
    level = getattr(settings, "log_level", "info")
    if level not in ("debug", "info", "warning", "error"):
        raise Invalid("settings", f"log_level is {level!r}; say debug, info, warning or error.")
    slots = getattr(settings, "slots", 0)
    if not 0 <= slots <= MAX_SLOTS:
        raise Invalid("settings", f"slots is {slots}; say 1 to {MAX_SLOTS}, or 0 for two per CPU.")
    for name, least, most in _RANGES:
        number = getattr(settings, name, least)
        if not least <= number <= most:
            raise Invalid("settings", f"{name} is {number}; say {least} to {most}.")
    database = getattr(settings, "database", Secret(""))
    if database and not database.reveal().startswith(POSTGRES):
        raise Invalid(
            "settings",
            "The setting `database` must be empty (SQLite in the data directory) or begin with "
            f"{POSTGRES}, for instance {POSTGRES}USER:PASSWORD@HOST:PORT/NAME.",
        )
    if getattr(settings, "websocket_listen", ""):
        split_listen(settings.websocket_listen)  # type: ignore[attr-defined]
    how = getattr(settings, "fabric", "auto")
    if how not in ("auto", "tcp", "wss") and not all(map(_FABRIC.fullmatch, how.split(","))):
        raise Invalid(
            "settings",
            f"fabric is {how!r}; say auto, tcp, wss, or addresses such as tls://HOST:4222 or "
            "wss://HOST/fabric.",
        )
    proxies(getattr(settings, "trusted_proxies", ""))
    ingest_places(getattr(settings, "ingest", ""))
    namespace = getattr(settings, "ingest_namespace", "default")
    if _NAMESPACE.fullmatch(namespace) is None:
        raise Invalid(
            "settings",
            f"ingest_namespace is {namespace!r}; say up to 64 letters, digits, "
            "dots, dashes and underscores, a letter or digit first.",
        )
