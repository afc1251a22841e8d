"""Where the server is: flag, environment, data directory, settings file, in this order."""

from __future__ import annotations

import json
from pathlib import Path

from quarterdeck.client.http import Connection
from quarterdeck.errors import Denied, Unavailable
from quarterdeck.settings import ClientSettings, client_file, default_data, load


def connect(*, url: str | None, token: str | None, data: str | None) -> Connection:
    """A connection to the server that the flags or the surroundings name.

    Raises Unavailable when none can be found, Denied when a token is missing.
    """
    near = load(ClientSettings, flags={"url": url, "token": token, "data": data})
    file = client_file()
    settings = near
    if not near.url and not near.data and file.exists():
        settings = load(ClientSettings, file=str(file), flags={"token": token})
    if settings.url:
        if not settings.token:
            raise Denied("no_token", "No token given: use --token or QD_TOKEN.")
        return Connection(settings.url, settings.token)
    directory = Path(settings.data or default_data())
    ready = directory / "ready.json"
    try:
        found = json.loads(ready.read_bytes())
        return Connection(str(found["url"]), settings.token or str(found["token"]))
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
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable("no_server", f"{ready} can't be understood; restart `qd up`.") from error
