"""What a server gives away is listed, whole or in parts, to anybody, and nothing else is."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import subprocess
import threading
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from quarterdeck.api import download
from quarterdeck.api.shelf import Shelf
from tests.http.http_host import Answer, HttpHost, listening

NOWHERE = "nats://127.0.0.1:1"  # downloads need neither fabric nor record
AGENT = "quarterdeck-agent-linux-x86_64.tar.gz"
BIG = bytes(range(256)) * 4096


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A directory with two files to give away, and what must not be."""
    directory = tmp_path / "shelf"
    directory.mkdir()
    (directory / AGENT).write_bytes(BIG)
    (directory / "tt-linux-x86_64").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "secret").write_bytes(b"secret")
    (directory / "link").symlink_to(tmp_path / "secret")
    (directory / "folder").mkdir()
    (directory / ".hidden").write_bytes(b"secret")
    (directory / "a name <with> & in it").write_bytes(b"secret")
    return directory


@pytest.fixture
async def host(tmp_path: Path, shelf: Path) -> AsyncIterator[HttpHost]:
    async with listening(tmp_path, NOWHERE, downloads=str(shelf)) as (host, _):
        yield host


async def test_the_list_names_what_is_there_and_says_of_what_is_not_how_it_is_made(
    host: HttpHost,
) -> None:
    answer = await host.ask("/download/", token="")
    assert answer.status == 200
    found = {item["name"]: item for item in answer.json["items"]}
    assert set(found) == {AGENT, "tt-linux-x86_64", "tt"}
    assert found[AGENT]["bytes"] == len(BIG)
    assert found[AGENT]["sha256"] == hashlib.sha256(BIG).hexdigest()
    assert found[AGENT]["path"] == f"/download/{AGENT}"
    assert "x86_64 without Python" in found[AGENT]["about"]
    absent = {item["name"]: item for item in answer.json["absent"]}
    assert "tt-linux-aarch64" in absent and AGENT not in absent
    assert "./dev build" in absent["tt-linux-aarch64"]["why"]


async def test_a_browser_gets_a_page_that_can_run_nothing(host: HttpHost) -> None:
    answer = await host.ask("/download", token="", more={"Accept": "text/html,*/*"})
    page = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src")
    assert f'<a href="/download/{AGENT}">' in page and hashlib.sha256(BIG).hexdigest() in page
    assert "secret" not in page and "<with>" not in page


async def test_a_file_comes_whole_and_is_known_by_its_sum(host: HttpHost) -> None:
    answer = await host.ask(f"/download/{AGENT}", token="")
    assert (answer.status, answer.body) == (200, BIG)
    assert answer.headers["content-length"] == str(len(BIG))
    assert answer.headers["accept-ranges"] == "bytes"
    mark = answer.headers["etag"]
    assert mark == f'"{hashlib.sha256(BIG).hexdigest()}"'
    look = await host.ask(f"/download/{AGENT}", token="", method="HEAD")
    assert (look.status, look.body, look.headers["content-length"]) == (200, b"", str(len(BIG)))
    for known in (mark, f'"other", W/{mark}', "*"):
        again = await host.ask(f"/download/{AGENT}", token="", more={"If-None-Match": known})
        assert (again.status, again.body) == (304, b""), known


PARTS = {
    "bytes=0-0": (0, 1),
    "bytes=300000-": (300000, len(BIG)),
    "bytes=-10": (len(BIG) - 10, len(BIG)),
    "bytes=5-99999999999": (5, len(BIG)),
    "bytes=-99999999999": (0, len(BIG)),
}
NO_PARTS = ("bytes=1-2,5-6", "bytes=7-3", "bytes=-", "lines=1-2")
BEYOND = (f"bytes={len(BIG)}-", "bytes=-0")


async def test_a_part_is_exactly_what_was_asked_for(host: HttpHost) -> None:
    async def part(asked: str) -> Answer:
        return await host.ask(f"/download/{AGENT}", token="", more={"Range": asked})

    for asked, (start, end) in PARTS.items():
        answer = await part(asked)
        assert (answer.status, answer.body) == (206, BIG[start:end]), asked
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(BIG)}"
    for asked in NO_PARTS:
        answer = await part(asked)
        assert (answer.status, answer.body) == (200, BIG), asked
    for asked in BEYOND:
        answer = await part(asked)
        assert (answer.status, answer.json["code"]) == (416, "range"), asked
        assert answer.headers["content-range"] == f"bytes */{len(BIG)}"


async def test_a_download_that_broke_off_is_resumed_unless_the_file_is_another_now(
    host: HttpHost, shelf: Path
) -> None:
    mark = (await host.ask(f"/download/{AGENT}", token="", method="HEAD")).headers["etag"]
    rest = {"Range": "bytes=1000-", "If-Range": mark}
    answer = await host.ask(f"/download/{AGENT}", token="", more=rest)
    assert (answer.status, answer.body) == (206, BIG[1000:])
    (shelf / "new").write_bytes(BIG[::-1])
    (shelf / "new").rename(shelf / AGENT)
    answer = await host.ask(f"/download/{AGENT}", token="", more=rest)
    assert (answer.status, answer.body) == (200, BIG[::-1])
    assert answer.headers["etag"] != mark


async def test_no_name_leads_out_of_the_directory(host: HttpHost) -> None:
    for name in (
        "../secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "%2e%2e%2fsecret",
        "link",
        "folder",
        "folder/",
        ".hidden",
        "a%20name%20%3Cwith%3E%20%26%20in%20it",
        "tt%00",
        "%2Fetc%2Fpasswd",
    ):
        answer = await host.ask(f"/download/{name}", token="")
        assert answer.status == 404 and b"secret" not in answer.body, name


async def test_what_is_not_there_is_told_with_what_is(host: HttpHost) -> None:
    answer = await host.ask("/download/tt-linux-aarch64", token="")
    assert (answer.status, answer.json["code"]) == (404, "no_download")
    assert "'tt-linux-aarch64'" in answer.json["detail"] and AGENT in answer.json["detail"]


async def test_the_sums_are_those_of_the_files_as_they_are_now(host: HttpHost, shelf: Path) -> None:
    (shelf / "SHA256SUMS").write_text("stale")
    (shelf / "later").write_bytes(b"later")
    sums = (await host.ask("/download/SHA256SUMS", token="")).body
    done = await asyncio.to_thread(
        subprocess.run,
        ["sha256sum", "-c", "--ignore-missing"],
        cwd=shelf,
        input=sums,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert done.stdout.count(b": OK\n") == 3 and b"later" in sums


async def test_a_server_without_a_directory_still_gives_tt_away(tmp_path: Path) -> None:
    async with listening(tmp_path, NOWHERE, downloads=str(tmp_path / "none")) as (host, _):
        answer = await host.ask("/download/", token="")
        assert [item["name"] for item in answer.json["items"]] == ["tt"]
        assert len(answer.json["absent"]) == 5
        tt = tmp_path / "tt"
        tt.write_bytes((await host.ask("/download/tt", token="")).body)
        tt.chmod(0o755)
        done = await asyncio.to_thread(
            subprocess.run, [str(tt), "--help"], capture_output=True, check=False
        )
        assert (done.returncode, done.stdout[:9]) == (0, b"usage: tt"), done


async def test_the_line_that_installs_names_the_agent_that_is_given_away(host: HttpHost) -> None:
    host.server.url = "https://qd.example:7333"
    made = await host.ask("/v1/tokens", method="POST", body={"kind": "join"})
    assert made.status == 201, made
    assert hashlib.sha256(BIG).hexdigest() in made.json["install"]
    assert "/download/quarterdeck-agent-linux-$a.tar.gz" in made.json["install"]


async def next_of(body: AsyncIterator[bytes]) -> bytes:
    return await anext(body)


async def test_who_leaves_while_the_disk_is_read_is_let_go(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: object) -> Generator[bytes]:
        try:
            reading.set()
            go_on.wait()
            yield b"late"
        finally:
            closed.set()

    monkeypatch.setattr(download, "pieces", slow)
    body = download._bytes(Shelf(shelf, {}).find(AGENT), download.Part(status=200))
    async with asyncio.TaskGroup() as group:
        viewer: asyncio.Task[bytes] = group.create_task(next_of(body))
        await asyncio.to_thread(reading.wait)
        viewer.cancel()
        await asyncio.wait([viewer])
        go_on.set()
    assert viewer.cancelled()
    del viewer, body
    gc.collect()
    assert await asyncio.to_thread(closed.wait, 10)
