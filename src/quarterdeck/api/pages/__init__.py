"""The plain page of a trace: its files, and what a browser is allowed on it.

Everything the page shows comes from senders, so nothing but our own script runs there, and nothing
is loaded from elsewhere. Tokens stay in the part of the address that is never sent (`#`).
"""

from __future__ import annotations

import hashlib
from importlib import resources

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath

from quarterdeck.api.auth import PUBLIC
from quarterdeck.api.origins import frame_ancestors
from quarterdeck.control.main import Server
from quarterdeck.errors import NotFound

KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}; "
    "require-trusted-types-for 'script'"
)
PLAIN = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

Ask = Request[object, object, State]


def _files() -> dict[str, bytes]:
    here = resources.files(__name__).iterdir()
    return {one.name: one.read_bytes() for one in here if one.name.endswith(tuple(KINDS))}


FILES = _files()


@get(["/trace", "/trace/{name:str}"], opt={PUBLIC: True}, include_in_schema=False)
async def trace_page(
    request: Ask, server: NamedDependency[Server], name: FromPath[str] = ""
) -> Response[bytes]:
    """The page on which a name of traces is picked and watched."""
    ancestors = frame_ancestors(server.settings.frame_ancestors)
    more = {"Content-Security-Policy": POLICY.format(ancestors=ancestors)}
    if ancestors == "'none'":
        more["X-Frame-Options"] = "DENY"
    return _answer(request, "trace.html", more)


@get("/pages/{file:str}", opt={PUBLIC: True}, include_in_schema=False)
async def page_file(request: Ask, file: FromPath[str]) -> Response[bytes]:
    """A script, style or picture of the page."""
    if file not in FILES or file.endswith(".html"):
        raise NotFound("no_route", f"There is no file {file[:80]!r} here.")
    return _answer(request, file, {})


def _answer(request: Ask, file: str, more: dict[str, str]) -> Response[bytes]:
    content = FILES[file]
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {**PLAIN, **more, "ETag": tag}
    known = request.headers.get("if-none-match") == tag
    kind = KINDS[file[file.rindex(".") :]]
    if known:
        return Response(b"", status_code=304, headers=headers, media_type=kind)
    return Response(content, headers=headers, media_type=kind)
