"""Files that survive a power cut, at the price of one wait for the disk.

An fsync costs the same few milliseconds whatever it has to write, and several at once cost as much
as one: the disk is told to empty its cache once for all. So a record is written and handed to the
disk, gets its name, and then its content and the folders above it are made durable together. The
content is with the disk before the name exists (`sync_file_range`, which waits for no cache), so
that no power cut shows a name without its content.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from quarterdeck.agent.shim import linux

_Path = str | os.PathLike[str]


def write_json(path: _Path, value: Mapping[str, Any], *, also: Iterable[_Path] = ()) -> None:
    """Write a file so that a reader sees all of it or the old one, also after a power cut.

    `also`: further folders whose names are to be made durable. OSError: either nothing has changed
    at `path`, or the new content is there and may not outlive a power cut.
    """
    path = os.fspath(path)
    folder, name = os.path.split(path)
    draft = os.path.join(folder, f".{name}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(draft, flags, 0o600)
    try:
        try:
            _write(fd, json.dumps(value, separators=(",", ":")).encode())
            _hand_over(fd)
            os.rename(draft, path)
        except OSError:
            try:
                os.unlink(draft)  # a half-written draft would hold space on a full disk
            except OSError:
                pass
            raise
        _sync_with_folders([fd], [folder, *(os.fspath(one) for one in also)])
    finally:
        os.close(fd)


def write_file(
    path: _Path,
    data: bytes,
    mode: int,
    *,
    owner: tuple[int, int] | None = None,
    durable: bool = False,
) -> None:
    """Create or replace a file's content, not atomically; its name is not made durable.

    `owner`: the user and the group that get the file.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, mode)
    try:
        os.fchmod(fd, mode)
        _write(fd, data)
        if owner is not None:
            os.fchown(fd, *owner)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: _Path) -> None:
    """Make the names in a folder durable."""
    _sync_with_folders([], [os.fspath(folder)])


def sync(fds: list[int]) -> None:
    """fsync several descriptors at once; OSError of the first that failed, after all were tried."""
    failed: list[OSError] = []

    def one(fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError as error:
            failed.append(error)

    beside = [threading.Thread(target=one, args=(fd,)) for fd in fds[1:]]
    for thread in beside:
        thread.start()
    for fd in fds[:1]:
        one(fd)
    for thread in beside:
        thread.join()
    if failed:
        raise failed[0]


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _hand_over(fd: int) -> None:
    """Have the disk take the content of a file, and wait for that."""
    try:
        linux.write_out(fd)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ESPIPE):
            raise
        os.fsync(fd)  # the long way where the kernel or file system knows no shorter one


def _sync_with_folders(fds: list[int], folders: list[str]) -> None:
    opened: list[int] = []
    try:
        for folder in folders:
            opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        sync([*fds, *opened])
    finally:
        for fd in opened:
            os.close(fd)
