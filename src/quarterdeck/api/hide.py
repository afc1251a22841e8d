"""Takes a token out of the query before anybody sees it: no log, event or error can tell it.

A query is told in many places: errors of validation name the address, WebSocket servers log it, so
it is taken away at the door, whether the route accepts it there or not.
"""

from __future__ import annotations

from urllib.parse import unquote_plus

from quarterdeck.api.front import HIDDEN, App, Receive, Scope, Send

PARAMETER = "access_token"


def hiding(app: App) -> App:
    """The application, whose requests have no `access_token` in their query."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        hide(scope)  # in place: who made the scope may log what is in it
        await app(scope, receive, send)

    return call


def hide(scope: Scope) -> None:
    """Move the token out of the query, to where `hidden_token` finds it."""
    query: bytes = scope.get("query_string", b"")
    if not query:
        return
    kept = []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if unquote_plus(name.decode("latin-1")) == PARAMETER:
            scope[HIDDEN] = unquote_plus(value.decode("latin-1"))
        else:
            kept.append(part)
    scope["query_string"] = b"&".join(kept)
