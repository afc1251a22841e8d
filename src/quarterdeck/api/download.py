"""Routes of what a server gives away: its programs, for machines that have nothing of ours yet.

Public: whoever is to join has no token for the API. Files can be fetched in parts (`Range`), are
known by their SHA-256 (`ETag`), and SHA256SUMS is made of what is there now.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator
from html import escape

import msgspec
from litestar import HttpMethod, MediaType, Response, Router, get, route
from litestar import Request as HttpRequest
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath

from quarterdeck.api.auth import PUBLIC
from quarterdeck.api.body import Body
from quarterdeck.api.describe import ALSO
from quarterdeck.api.schema import Problem
from quarterdeck.api.shelf import SUMS, File, Shelf, about, pieces
from quarterdeck.api.stream import Stream

BINARY = "application/octet-stream"
WHY_ABSENT = (
    "It is not in the directory that the setting `downloads` of this server names: `./dev build` "
    "in the sources of quarterdeck, on a machine of that architecture, makes it."
)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .8rem .3rem 0;"
    "vertical-align:top}code,td:nth-child(2){white-space:nowrap}small{color:#666;"
    "overflow-wrap:anywhere}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

Request = HttpRequest[None, None, State]


class DownloadBody(Body, frozen=True, kw_only=True):
    """A file; `path` is below the address of the server."""

    name: str
    path: str
    bytes: int
    sha256: str
    about: str


class AbsentBody(Body, frozen=True, kw_only=True):
    """What this server could offer and does not, and why."""

    name: str
    about: str
    why: str


class DownloadList(Body, frozen=True, kw_only=True):
    items: tuple[DownloadBody, ...]
    absent: tuple[AbsentBody, ...]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What of a file is answered, from `start` to before `end`, and with which status."""

    status: int
    start: int = 0
    end: int = 0


@get("/", opt={PUBLIC: True})
async def list_downloads(request: Request, shelf: NamedDependency[Shelf]) -> Response[DownloadList]:
    """The programs that this server gives away; a browser gets a page."""
    files, absent = await asyncio.to_thread(lambda: (shelf.files(), shelf.absent()))
    found = DownloadList(
        items=tuple(
            DownloadBody(
                name=file.name,
                path=f"/download/{file.name}",
                bytes=file.size,
                sha256=file.sha256,
                about=about(file.name),
            )
            for file in files
        ),
        absent=tuple(
            AbsentBody(name=name, about=about(name.replace("*", "0")), why=WHY_ABSENT)
            for name in absent
        ),
    )
    if "text/html" not in request.headers.get("accept", ""):
        return Response(found)
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    # the schema has the list, not the page
    return Response(_page(found), media_type=MediaType.HTML, headers=headers)  # type: ignore[arg-type]


@get("/{name:str}", opt={PUBLIC: True, ALSO: (206,)}, media_type=BINARY)
async def download(
    name: FromPath[str],
    request: Request,
    shelf: NamedDependency[Shelf],
) -> Stream:
    """One of them, whole or, asked for with `Range`, a part; its `ETag` is its SHA-256."""
    return await _answer(name, request, shelf, body=True)


@route("/{name:str}", http_method=HttpMethod.HEAD, opt={PUBLIC: True}, include_in_schema=False)
async def look(name: FromPath[str], request: Request, shelf: NamedDependency[Shelf]) -> Stream:
    """What a download would be answered with, without the file."""
    return await _answer(name, request, shelf, body=False)


async def _answer(name: str, request: Request, shelf: Shelf, *, body: bool) -> Stream:
    file = await asyncio.to_thread(shelf.find, name)
    part = wanted_part(
        file,
        asked=request.headers.get("range", ""),
        only_if=request.headers.get("if-range", ""),
        known=request.headers.get("if-none-match", ""),
    )
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache",
        "Content-Length": str(part.end - part.start),
        "ETag": etag(file),
        "X-Content-Type-Options": "nosniff",
    }
    match part.status:
        case 304:
            del headers["Content-Length"]
            return Stream(_these(), status_code=304, headers=headers)
        case 416:
            headers["Content-Range"] = f"bytes */{file.size}"
            del headers["Content-Length"]
            text = f"{name} has {file.size} bytes: that part is not in it."
            problem = Problem(
                type="urn:quarterdeck:range",
                title="Range not satisfiable",
                status=416,
                code="range",
                detail=text,
            )
            return Stream(
                _these(msgspec.json.encode(problem)),
                status_code=416,
                headers=headers,
                media_type="application/problem+json",
            )
        case 206:
            headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{file.size}"
    text_type = "text/plain; charset=utf-8"
    return Stream(
        _bytes(file, part) if body else _these(),
        status_code=part.status,
        headers=headers,
        media_type=text_type if name == SUMS else BINARY,
    )


def etag(file: File) -> str:
    return f'"{file.sha256}"'


def wanted_part(file: File, *, asked: str, only_if: str, known: str) -> Part:
    """What the headers Range, If-Range and If-None-Match ask for. Several ranges, and what is no
    range, are answered with the whole file."""
    if known and (known.strip() == "*" or etag(file) in re.split(r"\s*,\s*|W/", known.strip())):
        return Part(status=304)
    whole = Part(status=200, end=file.size)
    found = _RANGE.fullmatch(asked.strip())
    if found is None or found[0] == "bytes=-" or (only_if and only_if.strip() != etag(file)):
        return whole
    first, last = found.groups()
    if not first:
        start, end = max(0, file.size - int(last)), file.size
    else:
        start, end = int(first), min(int(last) + 1, file.size) if last else file.size
    if first and last and int(last) < int(first):
        return whole
    return Part(status=206, start=start, end=end) if start < end else Part(status=416)


async def _bytes(file: File, part: Part) -> AsyncGenerator[bytes]:
    source = pieces(file, part.start, part.end)
    try:
        while (data := await asyncio.to_thread(next, source, None)) is not None:
            yield data
    finally:
        with contextlib.suppress(ValueError):  # it still reads for who has left: closed when let go
            source.close()


async def _these(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


def _page(found: DownloadList) -> str:
    rows = "".join(
        f'<tr><td><a href="{escape(item.path)}">{escape(item.name)}</a><td>{_size(item.bytes)}'
        f"<td>{escape(item.about)}<br><small>SHA-256 {item.sha256}</small>"
        for item in found.items
    )
    absent = "".join(
        f"<li><code>{escape(item.name)}</code>: {escape(item.about)}. {escape(item.why)}"
        for item in found.absent
    )
    missing = f"<h2>Not here</h2><ul>{absent}</ul>" if absent else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>quarterdeck: downloads</title><style>{STYLE}</style>"
        f"<h1>Downloads</h1><table><tr><th>File<th>Size<th>What it is{rows}</table>"
        f'<p><a href="/download/{SUMS}">{SUMS}</a>, for <code>sha256sum -c</code>.'
        f"{missing}</html>"
    )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.0f} kB"


router = Router(path="/download", route_handlers=[list_downloads, download, look])
