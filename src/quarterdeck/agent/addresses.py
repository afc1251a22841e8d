"""The addresses under which this machine may be reached, without the ones that say nothing."""

from __future__ import annotations

import ctypes
import ipaddress
import socket
from typing import Any

AF_OFFSET = 0
V4_ADDRESS = slice(4, 8)
V6_ADDRESS = slice(8, 24)


class _Address(ctypes.Structure):
    """struct ifaddrs of getifaddrs(3), as far as it is read here."""


_Address._fields_ = [
    ("next", ctypes.POINTER(_Address)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("other", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


def addresses() -> tuple[str, ...]:
    """All addresses but loopback, link-local, multicast and reserved ones, sorted."""
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_Address)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        return ()
    found = set()
    entry: Any = first
    while entry:
        text = _text(entry.contents.address)
        if text is not None and _useful(text):
            found.add(text)
        entry = entry.contents.next
    libc.freeifaddrs(first)
    return tuple(sorted(found))


def _text(pointer: int | None) -> str | None:
    if not pointer:
        return None
    family = ctypes.c_ushort.from_address(pointer + AF_OFFSET).value
    if family == socket.AF_INET:
        return socket.inet_ntop(family, ctypes.string_at(pointer, 8)[V4_ADDRESS])
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, ctypes.string_at(pointer, 24)[V6_ADDRESS])
    return None


def _useful(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )
