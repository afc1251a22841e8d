"""`tt` where a proxy is the only way to the server, with and without a password, or away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.connect_proxy import ConnectProxy, in_thread
from tests.e2e.tracing import deliver_rest, ended, output, spools, trace, traces
from tests.e2e.up import Up, running, wait_for

LOGIN = "fleet:ge%3Aheim"  # as it stands in a URL
NAMES = {"server.example": "127.0.0.1"}  # what nobody but the proxy knows
COMMAND = "echo out; echo err >&2; sleep 1; exit 3"  # until the server has answered, or not


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("plain"), nodes=0) as found:
        yield found


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("secure"), nodes=0, listen="0.0.0.0:0") as found:
        yield found


@pytest.fixture(params=["plain", "secure"])
def server(request: pytest.FixtureRequest, plain: Up, secure: Up) -> Up:
    """One that is reached by http, and one by a tunnel of CONNECT."""
    return plain if request.param == "plain" else secure


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    found = ConnectProxy("fleet:ge:heim", names=NAMES)
    with in_thread(found):
        yield found


def behind(server: Up, home: Path, proxy: str, *, host: str = "server.example") -> dict[str, str]:
    """The environment of a user who reaches `host` by a proxy."""
    scheme, _, rest = server.ready["url"].partition("://")
    url = f"{scheme}://{host}:{rest.rpartition(':')[2]}"
    known = {name: value for name, value in server.env.items() if not name.startswith("QD_")}
    here = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "TT_LINGER_S": "0"}
    token = str(server.json("token", "create", "--kind", "send")["token"])
    return {**known, **here, "TT_URL": url, "TT_TOKEN": token, f"{scheme}_proxy": proxy}


def open_to(proxy: ConnectProxy) -> str:
    return f"http://{LOGIN}@127.0.0.1:{proxy.port}"


def test_a_proxy_that_asks_for_a_password_leads_to_the_server(
    server: Up, proxy: ConnectProxy, tmp_path: Path
) -> None:
    env = behind(server, tmp_path, open_to(proxy))
    done = trace(env, "-n", "proxied", COMMAND)
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert b"View URL for task output: " in done.stderr and b"heim" not in done.stderr
    found = ended(server, "proxied")
    assert found["code"] == 3
    assert output(server, found["trace"], "stdout") == b"out\n"
    place = env["TT_URL"].partition("://")[2]
    if env["TT_URL"].startswith("https:"):
        assert set(proxy.tunnels) == {place} and not proxy.asked
    else:
        assert {url.rpartition("/v1/")[0] or url for url in proxy.asked} >= {f"http://{place}"}
        assert not proxy.tunnels
    assert not proxy.refused


def fails_open(env: dict[str, str], name: str) -> bytes:
    """What is said to a command that goes on as if nothing was: one line."""
    done = trace(env, "-n", name, COMMAND)
    assert (done.returncode, done.stdout) == (3, b"out\n")
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and b"err" in lines, done.stderr
    (said,) = [line for line in lines if line != b"err"]
    assert said.startswith(b"tt: ") and b"delivered later" in said and b"heim" not in said
    return said


def test_without_its_password_the_command_goes_on_and_the_next_one_delivers(
    server: Up, proxy: ConnectProxy, tmp_path: Path
) -> None:
    env = behind(server, tmp_path, f"http://127.0.0.1:{proxy.port}")
    assert b"proxy wants a user and a password" in fails_open(env, "refused")
    assert proxy.refused and not traces(server, "refused")
    wait_for("the spool", lambda: spools(env))
    deliver_rest({**env, **behind(server, tmp_path, open_to(proxy)), "TT_LINGER_S": "30"})
    found = ended(server, "refused")
    assert (found["code"], output(server, found["trace"], "stdout")) == (3, b"out\n")


def test_a_proxy_that_is_away_is_named_and_changes_nothing(server: Up, tmp_path: Path) -> None:
    with socket.socket() as held:  # bound, so that nobody else listens there
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        said = fails_open(behind(server, tmp_path, f"http://{LOGIN}@127.0.0.1:{port}"), "away")
    assert f"through the proxy 127.0.0.1:{port}".encode() in said
    assert not traces(server, "away")


@pytest.mark.parametrize("excepted", ["", "0.0.0.0", "example.org, 0.0.0.0/8"])
def test_no_proxy_names_what_is_reached_straight(
    plain: Up, proxy: ConnectProxy, tmp_path: Path, excepted: str
) -> None:
    env = behind(plain, tmp_path, open_to(proxy), host="0.0.0.0")
    name = "straight" + str(len(excepted))
    assert trace({**env, "no_proxy": excepted}, "-n", name, COMMAND).returncode == 3
    assert ended(plain, name)["code"] == 3
    assert bool(proxy.asked) is not bool(excepted)
