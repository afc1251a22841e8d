"""Lists of runs over HTTP."""

from __future__ import annotations

from pathlib import Path

from tests.contracts.fabric_server import harbour
from tests.http.http_host import answering


async def test_a_list_before_a_run_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    async with harbour(tmp_path) as place, answering(place.root, place.server.url) as host:
        found = await host.ask("/v1/runs?before=nosuch")
    assert found.status == 404
    assert "nosuch" in found.json["detail"]


async def test_the_last_run_is_another_one_after_the_next(tmp_path: Path) -> None:
    async with harbour(tmp_path) as place, answering(place.root, place.server.url) as host:
        for _ in range(2):
            body = {"target": "all", "argv": ["true"], "allow_empty": True}
            made = await host.ask("/v1/runs", method="POST", body=body)
            assert (await host.ask("/v1/runs/last")).json["id"] == made.json["id"]
