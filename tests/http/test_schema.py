"""The API does what its description says: schemathesis asks a real server odd questions."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from quarterdeck.telemetry import NodeSession, RequestFailed, RunEnded
from quarterdeck.wire.run import AttemptSnapshot
from tests.contracts.fabric_server import Harbour, harbour
from tests.http.http_host import API, HttpHost, answering
from tests.integration.server_host import HandNode, order

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))
LIMIT_S = 280.0  # about 30 s on a machine of its own
EXAMPLES = "3"
# what a schema can't say (one of three fields, a target that hits a node) may be refused
UNCHECKED = "positive_data_acceptance,ignored_auth,unsupported_method,allow_header_conformance"
# what follows for ever is read for so long each time, not for the timeout of a request; a preview
# has the body of its run, which is asked in 560 odd shapes; and methods have a test of their own
CONFIG = """
[phases.coverage]
unexpected-methods = []

[[operations]]
include-path-regex = "/stream$|/events$"
request-timeout = 4

[[operations]]
include-path-regex = "/preview$"
phases.coverage.enabled = false
"""
# the body of a clone, too, but its odd shapes are asked of the run that exists
ASKED_OF_A_RUN = """
[[operations]]
include-path-regex = "/clone$"
phases.coverage.enabled = false
"""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path) as running:
        yield running


@pytest.fixture
async def host(place: Harbour) -> AsyncIterator[HttpHost]:
    async with answering(place.root, place.server.url) as found:
        yield found


async def schemathesis(host: HttpHost, directory: Path, config: str, *words: str) -> str:
    """Run it to its end; what it printed, when it found something."""
    (directory / "schemathesis.toml").write_text(config)
    process = await asyncio.create_subprocess_exec(
        SCHEMATHESIS,
        "--config-file",
        "schemathesis.toml",
        "run",
        f"http://127.0.0.1:{host.port}/openapi.json",
        "--header",
        f"Authorization: Bearer {API}",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        EXAMPLES,
        "--exclude-checks",
        UNCHECKED,
        "--request-timeout",
        "10",
        "--seed",
        "7",
        "--workers",
        "2",
        "--continue-on-failure",
        "--no-color",
        *words,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode() if process.returncode else ""


@pytest.mark.timeout(300)
async def test_no_question_finds_a_500_or_an_answer_that_breaks_its_schema(
    host: HttpHost, tmp_path: Path
) -> None:
    found = await schemathesis(host, tmp_path, CONFIG + ASKED_OF_A_RUN)
    assert not found, found
    assert not host.ears.all(RequestFailed)


@pytest.mark.timeout(300)
async def test_questions_about_a_run_that_exists_are_answered_as_described(
    place: Harbour, host: HttpHost, tmp_path: Path
) -> None:
    node = HandNode(place, host.server, "hand")
    await node.join()
    await host.ears.until(NodeSession)
    node.answer = lambda orders: tuple(
        AttemptSnapshot(attempt=item.attempt, revision=1, phase="accepted", accepted_at=1.0)
        for item in orders.items
    )
    run = await order(host.server, "hand")
    await node.orders.get()
    end = AttemptSnapshot(attempt=f"{run}-0-1", revision=3, phase="ended", accepted_at=1.0)
    await node.tell(msgspec.structs.replace(end, exit_code=0, ended_at=2.0, cached=True))
    await host.ears.until(RunEnded)
    config = f'[parameters]\nrun_id = "{run}"\n{CONFIG}'
    found = await schemathesis(host, tmp_path, config, "--include-path-regex", "run_id")
    await node.fabric.stop()
    assert not found, found
    assert not host.ears.all(RequestFailed)


async def test_what_may_be_left_out_may_be_left_out_and_null_is_no_value(host: HttpHost) -> None:
    for path in ("/v1/runs", "/v1/runs?limit=5", "/v1/runs?state=ended"):
        assert (await host.ask(path)).status == 200
    assert (await host.ask("/v1/runs/06gz/output")).status == 404
    assert (await host.ask("/v1/runs/06gz/cancel", method="POST")).status == 404
    body = {"target": "none", "argv": ["true"], "allow_empty": True}
    run = (await host.ask("/v1/runs", method="POST", body=body)).json["id"]
    for query in ("state=null", "state=", "state=dancing", "limit=null"):
        assert (await host.ask(f"/v1/runs?{query}")).status == 400
    for query in ("length=null", "lines=null", "length=-1", "offset=null"):
        assert (await host.ask(f"/v1/runs/{run}/output?{query}")).status == 400
    for path in ("/v1/trace/x", "/trace/x"):
        answer = await host.ask(f"{path}?code=null", method="PUT")
        assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    answer = await host.ask(f"/v1/runs/{run}/cancel?nth=null", method="POST")
    assert answer.status == 400


async def test_the_description_names_security_errors_and_events(host: HttpHost) -> None:
    document = json.loads((await host.ask("/openapi.json", token="")).body)
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["components"]["schemas"]["LiveEvent"]["discriminator"]["propertyName"] == "type"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["responses"]["default"]["$ref"].endswith("/Problem"), (method, path)
            assert operation["summary"] and "security" in operation


async def test_a_method_that_a_path_does_not_have_is_answered_as_described(host: HttpHost) -> None:
    paths = json.loads((await host.ask("/openapi.json", token="")).body)["paths"]
    for path, operations in paths.items():
        for method in {"PATCH", "DELETE"} - {m.upper() for m in operations}:
            answer = await host.ask(path.replace("{", "").replace("}", ""), method=method)
            assert (answer.status, answer.json["code"]) == (405, "method"), (method, path)
            found = set(answer.headers["allow"].split(", "))
            assert {m.upper() for m in operations} <= found and method not in found
    answer = await host.ask("/v1/runs/preview")  # a word, not a run of that name
    assert (answer.status, answer.headers["allow"]) == (405, "OPTIONS, POST")


async def test_a_value_of_another_type_in_a_body_is_refused_and_not_turned_into_one(
    host: HttpHost,
) -> None:
    for change, told in (
        ({"allow_empty": "1"}, "allow_empty: Expected `bool`, got `str`."),
        ({"timeout_s": "5"}, "timeout_s: Expected `float`, got `str`."),
        ({"retry": {"attempts": "3"}}, "retry.attempts: Expected `int`, got `str`."),
        ({"argv": [1]}, "argv[0]: Expected `str`, got `int`."),
    ):
        body = {"target": "all", "argv": ["true"], "allow_empty": True} | change
        answer = await host.ask("/v1/runs", method="POST", body=body)
        assert (answer.status, answer.json["detail"]) == (400, told)
    assert (await host.ask("/v1/runs?limit=5&state=ended")).status == 200, "a query is text"
