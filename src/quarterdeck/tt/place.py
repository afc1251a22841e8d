"""Where the server is and who we are: flags, environment, ~/.tt.conf, /etc/tt.conf, qd's settings.

A token goes only to the server it was given for: one that stands beside a URL is not used with the
URL of another place.
"""

from __future__ import annotations

import os

from quarterdeck.tt.text import decode
from quarterdeck.tt.words import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from quarterdeck.tt.words import Wanted

SYSTEM_FILE = "/etc/tt.conf"
_KEYS = ("id", "token", "url", "namespace", "fingerprint", "memory_mib", "spool_mib", "linger_s")
_MEMORY_MIB = 64
_SPOOL_MIB = 1024
_LINGER_S = 3600


class Place:
    """A server, or the data directory of one: `refresh` reads that anew, as its address and token
    are known only while it runs."""

    def __init__(
        self, url: str, token: str, *, fingerprint: str = "", namespace: str = "", data: str = ""
    ) -> None:
        self.url = url.rstrip("/")
        self.token, pinned = split(token)
        self.fingerprint = fingerprint.lower().replace(":", "") or pinned
        self.namespace = namespace
        self.data = data
        self._given = self.token

    def refresh(self) -> bool:
        """Whether an address is known."""
        if self.data:
            found = _json_file(os.path.join(self.data, "ready.json"))
            self.url = str(found.get("url", "")).rstrip("/")
            self.token = self._given or str(found.get("token", ""))
            self.fingerprint = str(found.get("fingerprint", ""))
        return bool(self.url)

    def as_json(self) -> dict[str, str]:
        """For the spool."""
        if self.data:
            return {"data": self.data, "token": self._given, "namespace": self.namespace}
        names = ("url", "token", "fingerprint", "namespace")
        return {name: getattr(self, name) for name in names}

    def name(self) -> str:
        """For sentences."""
        return self.url or f"{self.data} (qd up does not run there)"


def place_of(found: dict[str, Any]) -> Place:
    """What `as_json` wrote."""
    given = {key: str(found.get(key, "")) for key in ("fingerprint", "namespace", "data")}
    return Place(str(found.get("url", "")), str(found.get("token", "")), **given)


def split(token: str) -> tuple[str, str]:
    """(what is sent, the fingerprint that follows a fourth underscore or nothing)."""
    parts = token.split("_")
    if len(parts) == 5 and parts[0] == "qd" and len(parts[4]) == 64:
        return "_".join(parts[:4]), parts[4]
    return token, ""


class Settings:
    """What all places say together. `place` None: no server is known. `warnings` are sentences."""

    def __init__(self, wanted: Wanted) -> None:
        self.warnings: list[str] = []
        environ = os.environ
        flags = {
            "url": wanted.url,
            "token": wanted.token or self._token_file(wanted.token_file),
            "id": wanted.id,
            "namespace": wanted.namespace,
            "data": wanted.data,
        }
        own = {key: environ.get("TT_" + key.upper(), "") for key in _KEYS}
        of_qd = {
            key: environ.get("QD_" + key.upper(), "")
            for key in ("url", "token", "fingerprint", "data")
        }
        files = [
            self._ini(os.path.join(os.path.expanduser("~"), ".tt.conf")),
            self._ini(SYSTEM_FILE),
        ]
        self._places = [flags, own, of_qd, *files, _qd_file()]
        self.place = self._find()
        self.id = self._id()
        self.memory = self._number("memory_mib", _MEMORY_MIB) << 20
        self.disk = self._number("spool_mib", _SPOOL_MIB) << 20
        self.linger_s = self._number("linger_s", _LINGER_S)

    def _find(self) -> Place | None:
        namespace = self._first("namespace")
        for at, one in enumerate(self._places):
            url, data = one.get("url", ""), one.get("data", "")
            if not url and not data:
                continue
            nearer = [each for each in self._places[:at] if each.get("token")]
            token = (nearer[0] if nearer else one).get("token", "")
            if not url:
                return Place("", token if nearer else "", namespace=namespace, data=data)
            further = [each for each in self._places[at:] if each.get("url", "") in ("", url)]
            token = token or next((each["token"] for each in further if each.get("token")), "")
            return Place(url, token, fingerprint=one.get("fingerprint", ""), namespace=namespace)
        data = _default_data()
        return Place("", "", namespace=namespace, data=data) if os.path.isdir(data) else None

    def _first(self, key: str) -> str:
        return next((one[key] for one in self._places if one.get(key)), "")

    def _id(self) -> str:
        found = self._first("id")
        if found and not is_id(found):
            self.warnings.append(
                "the id in the settings is none (1 to 255 characters, no control "
                "characters): the name of this host is used."
            )
            found = ""
        host = "".join(one if is_id(one) else "-" for one in os.uname().nodename)
        return found or host[:255] or "host"

    def _number(self, key: str, default: int) -> int:
        found = self._first(key)
        if found.isascii() and found.isdigit() and len(found) < 9:
            return int(found)
        if found:
            self.warnings.append(f"{key} is {found!r}, which is no number: {default} is used.")
        return default

    def _token_file(self, path: str) -> str:
        if not path:
            return ""
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().strip()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            self.warnings.append(f"the token file {path} can't be read ({why}).")
            return ""

    def _ini(self, path: str) -> dict[str, str]:
        """`key = value` lines; sections are as good as none."""
        found: dict[str, str] = {}
        try:
            with open(path, encoding="utf-8-sig", errors="replace") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            return found
        except OSError as error:
            self.warnings.append(f"{path} can't be read ({error.strerror}).")
            return found
        for line in map(str.strip, lines):
            if not line or line[0] in "#;[":
                continue
            key, equals, value = line.partition("=")
            if not equals:
                key, equals, value = line.partition(":")
            key = key.strip().lower()
            if key not in _KEYS:
                self.warnings.append(f"{path}: {key[:40]!r} is no setting: use {', '.join(_KEYS)}.")
                continue
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            found[key] = value
        return found


def _qd_file() -> dict[str, str]:
    """The strings of qd's own settings file; there is no TOML parser before Python 3.11."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    found: dict[str, str] = {}
    try:
        with open(os.path.join(home, "quarterdeck", "config.toml"), encoding="utf-8") as file:
            for line in file:
                key, _, value = (part.strip() for part in line.partition("="))
                quote = value[:1]
                if key in ("url", "token", "data", "fingerprint") and quote in ('"', "'"):
                    found[key] = value[1:].split(quote)[0]
    except (OSError, ValueError):
        pass  # none, or none that can be read; `qd` says which
    return found


def _default_data() -> str:
    if os.geteuid() == 0:
        return "/var/lib/quarterdeck"
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(
        os.path.expanduser("~"), ".local", "share"
    )
    return os.path.join(home, "quarterdeck")


def _json_file(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return decode(file.read())
    except OSError:
        return {}
