"""Where the server is: flag, environment, data directory, settings file, in this order."""

from __future__ import annotations

import json
from pathlib import Path

from quarterdeck.client.http import PATIENCE_S, Connection
from quarterdeck.errors import Denied, Unavailable
from quarterdeck.settings import ClientSettings, client_file, default_data, load


def connect(
    *, url: str | None, token: str | None, data: str | None, patience_s: float = PATIENCE_S
) -> Connection:
    """A connection to the server that the flags or the surroundings name.

    Raises Unavailable when none can be found, Denied when a token is missing.
    """
    settings = nearest(url=url, token=token, data=data)
    if settings.url:
        if not settings.token:
            raise Denied("no_token", "No token given: use --token or QD_TOKEN.")
        return Connection(
            settings.url,
            settings.token.reveal(),
            fingerprint=settings.fingerprint,
            patience_s=patience_s,
        )
    directory = directory_of(settings)
    ready = directory / "ready.json"
    try:
        found = json.loads(ready.read_bytes())
        return Connection(
            str(found["url"]),
            settings.token.reveal() or str(found["token"]),
            fingerprint=str(found.get("fingerprint", "")),
            patience_s=patience_s,
        )
    except FileNotFoundError as error:
        raise Unavailable(
            "no_server",
            f"No server found: {ready} does not exist. Start one with `qd up`, or name one with "
            "--url and --token, or its data directory with --data.",
        ) from error
    except PermissionError as error:
        raise Denied(
            "no_server", f"{ready} may not be read by this user; use --url and --token."
        ) from error
    except OSError as error:
        raise Unavailable(
            "no_server", f"{ready} can't be read ({error.strerror}); check --data."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable("no_server", f"{ready} can't be understood; restart `qd up`.") from error


def directory_of(settings: ClientSettings) -> Path:
    """The data directory in which a server is looked for when no URL is known."""
    return Path(settings.data or default_data())


def nearest(*, url: str | None, token: str | None, data: str | None) -> ClientSettings:
    """The first place that names a server: flags, environment, settings file. Raises Invalid.

    A place that names a data directory hides URLs and tokens of places further away: a token is
    only ever sent to the server it was given for.
    """
    flags = {"url": url, "token": token, "data": data}
    given = {"token": token}
    if url:
        return load(ClientSettings, flags={**flags, "data": ""})
    if data:
        return load(ClientSettings, environ={}, flags=flags)
    near = load(ClientSettings, flags=given)
    file = client_file()
    if near.url or near.data or not file.exists():
        return near
    return load(ClientSettings, file=str(file), flags=given)
