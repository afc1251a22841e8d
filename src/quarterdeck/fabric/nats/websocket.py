"""The fabric inside a WebSocket: the transport nats-py is handed for `ws:` and `wss:` addresses.

nats-py's own needs aiohttp (10 MiB of memory, 200 ms of import on every node) and answers one frame
for a line, so an INFO that overtakes the PONG leaves it waiting for ever. This one is a client of
RFC 6455 over asyncio's streams, and nothing else: frames that carry bytes, no extensions, a proxy
by CONNECT. Bytes are handed on as they come, whole frames are never awaited, so memory stays
bounded by the stream's limit whatever the other side calls a frame.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from nats.aio.transport import TcpTransport

from quarterdeck.errors import Unavailable
from quarterdeck.fabric.proxy import Proxy, default_port
from quarterdeck.service import entropy

if TYPE_CHECKING:
    from urllib.parse import ParseResult

HEAD_LIMIT = 16 << 10
FRAME = 1 << 20
_ACCEPT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FINAL, _MASKED = 0x80, 0x80
_CONTINUE, _TEXT, _BYTES, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


class BadFrame(OSError):
    """The other side does not speak WebSocket as a server has to."""


class Frames:
    """Takes the server's frames apart. `answer(opcode, data)` sends one of ours."""

    def __init__(self, answer: Callable[[int, bytes], None]) -> None:
        self._answer = answer
        self._held = bytearray()  # of a head or a control frame that is not complete
        self._left = 0  # bytes of the data frame that is being read
        self.closed = False

    def feed(self, data: bytes) -> bytes:
        """What was carried. Raises `BadFrame`."""
        if self._left >= len(data) and not self._held:  # in the middle of a long frame
            self._left -= len(data)
            return data
        self._held += data
        held, at, parts = self._held, 0, []
        while not self.closed:
            if self._left:
                piece = bytes(held[at : at + self._left])
                parts.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
            size = _head_size(held, at)
            if size is None:
                break
            opcode, length = _head(held, at, size)
            if opcode < _CLOSE:
                at, self._left = at + size, length
                continue
            if len(held) < at + size + length:
                break
            self._control(opcode, bytes(held[at + size : at + size + length]))
            at += size + length
        del held[:at]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _control(self, opcode: int, data: bytes) -> None:
        if opcode == _PING:
            self._answer(_PONG, data)
        elif opcode == _CLOSE:
            self._answer(_CLOSE, data[:2])
            self.closed = True


def _head_size(held: bytearray, at: int) -> int | None:
    if len(held) < at + 2:
        return None
    size = 2 + {126: 2, 127: 8}.get(held[at + 1] & 0x7F, 0)
    return size if len(held) >= at + size else None


def _head(held: bytearray, at: int, size: int) -> tuple[int, int]:
    first, second = held[at], held[at + 1]
    opcode = first & 0x0F
    length = int.from_bytes(held[at + 2 : at + size], "big") if size > 2 else second & 0x7F
    known = opcode in (_CONTINUE, _TEXT, _BYTES, _CLOSE, _PING, _PONG)
    if first & 0x70 or second & _MASKED or not known or (opcode >= _CLOSE and length > 125):
        raise BadFrame("it sent what is no frame of a WebSocket server")
    return opcode, length


def frame(opcode: int, data: bytes, key: bytes) -> bytes:
    """One whole frame of a client, masked with `key` (4 bytes)."""
    length = len(data)
    if length < 126:
        head = bytes([_FINAL | opcode, _MASKED | length])
    elif length < 1 << 16:
        head = bytes([_FINAL | opcode, _MASKED | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([_FINAL | opcode, _MASKED | 127]) + length.to_bytes(8, "big")
    return head + key + masked(data, key)


def masked(data: bytes, key: bytes) -> bytes:
    """XOR with the repeated key: as one long number, the only way that is quick in Python."""
    length = len(data)
    repeated = (key * (length // 4 + 1))[:length]
    number = int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")
    return number.to_bytes(length, "little")


class WebSocketTransport(TcpTransport):
    """`context` is for `wss:` addresses; `proxy` None: straight."""

    def __init__(self, context: ssl.SSLContext | None, proxy: Proxy | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._context = context
        self._proxy = proxy
        self._frames = Frames(self._send)
        self._early = b""  # carried, but not yet asked for

    def __bool__(self) -> bool:
        return True  # nats-py would make one of its own

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """`connect_timeout` is the caller's: it has one for all of it."""
        host, tls = uri.hostname or "", uri.scheme == "wss"
        port = uri.port or default_port(uri.scheme)
        context = (self._context or ssl.create_default_context()) if tls else None
        name = host if tls else None
        if self._proxy is None:
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=name, limit=buffer_size
            )
        else:
            tunnel = await _tunnel(self._proxy, host, port)
            try:
                reader, writer = await asyncio.open_connection(
                    sock=tunnel, ssl=context, server_hostname=name, limit=buffer_size
                )
            except BaseException:
                tunnel.close()
                raise
        self._bare_io_reader = self._io_reader = reader
        self._bare_io_writer = self._io_writer = writer
        await self._upgrade(uri, reader, writer)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        """TLS comes first here; nats-py asks again when the server's INFO wants it."""
        if self._io_writer is None and not isinstance(uri, str):
            await self.connect(uri, buffer_size, connect_timeout)

    async def _upgrade(
        self, uri: ParseResult, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        key = base64.b64encode(entropy(16)).decode()
        writer.write(
            f"GET {uri.path or '/'} HTTP/1.1\r\nHost: {uri.netloc.rpartition('@')[2]}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError as error:
            raise BadFrame("it does not answer as a WebSocket server") from error
        except asyncio.IncompleteReadError as error:
            raise BadFrame("it hung up on the WebSocket request") from error
        status = _status(head)
        digest = hashlib.sha1((key + _ACCEPT).encode(), usedforsecurity=False).digest()
        wanted = base64.b64encode(digest).decode()
        if status != 101:
            raise BadFrame(f"it answered {status or 'no HTTP'} to the WebSocket request")
        if wanted.lower() not in head.lower():
            raise BadFrame("it does not answer as a WebSocket server")

    def write(self, payload: bytes) -> None:
        self._send(_BYTES, payload)

    def writelines(self, payload: Iterable[bytes]) -> None:
        data = b"".join(payload)
        if len(data) <= FRAME:
            self._send(_BYTES, data)
            return
        for at in range(0, len(data), FRAME):
            self._send(_BYTES, data[at : at + FRAME])

    def _send(self, opcode: int, data: bytes) -> None:
        writer: Any = self._io_writer
        writer.write(frame(opcode, data, entropy(4)))

    async def read(self, buffer_size: int) -> bytes:
        """What the server said, at least a byte; empty at its end."""
        if self._early:
            found, self._early = self._early, b""
            return found
        reader: Any = self._io_reader
        while not self._frames.closed:
            data = await reader.read(buffer_size)
            if not data:
                break
            found = self._frames.feed(data)
            if found:
                return found
        return b""

    async def readline(self) -> bytes:
        """For the handshake: one line, whatever frames it comes in."""
        line = b""
        while b"\n" not in line and len(line) < FRAME:
            piece = await self.read(HEAD_LIMIT)
            if not piece:
                break
            line += piece
        end = line.find(b"\n") + 1 or len(line)
        self._early = line[end:]
        return line[:end]

    def at_eof(self) -> bool:
        return self._frames.closed or (not self._early and bool(super().at_eof()))  # type: ignore[no-untyped-call]


async def _tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    """A socket that the proxy has joined to `host`. Raises OSError, Unavailable."""
    loop = asyncio.get_running_loop()
    tunnel = await _dialled(proxy)
    try:
        await loop.sock_sendall(tunnel, proxy.connect_request(host, port))
        head = b""
        # Nobody speaks through the tunnel before we do, so nothing else can follow.
        while b"\r\n\r\n" not in head and len(head) < HEAD_LIMIT:
            piece = await loop.sock_recv(tunnel, HEAD_LIMIT)
            if not piece:
                break
            head += piece
        status = _status(head.decode("latin-1"))
        if not 200 <= status < 300:
            raise Unavailable("proxy", proxy.refusal(status, f"{host}:{port}"))
    except BaseException:
        tunnel.close()
        raise
    return tunnel


async def _dialled(proxy: Proxy) -> socket.socket:
    loop = asyncio.get_running_loop()
    worst: OSError = OSError("it has no address")
    try:
        found = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
    except OSError as error:
        worst, found = error, []
    for family, kind, protocol, _, address in found:
        dialled = socket.socket(family, kind, protocol)
        dialled.setblocking(False)
        try:
            await loop.sock_connect(dialled, address)
        except OSError as error:
            dialled.close()
            worst = error
        except BaseException:
            dialled.close()
            raise
        else:
            return dialled
    raise Unavailable("proxy", f"The proxy {proxy} can't be reached: {worst}.") from worst


def _status(head: str) -> int:
    words = head.split(None, 2)
    return int(words[1]) if len(words) > 1 and words[0][:5] == "HTTP/" and words[1].isdigit() else 0
