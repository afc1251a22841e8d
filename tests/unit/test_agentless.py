"""Where an agentless node is, which host keys can be ordered, and what is carried there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.agent.ssh import carry, road
from quarterdeck.agent.ssh.road import Pins
from quarterdeck.core.agentless import Place, check_key, place
from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.wire.agentless import AgentlessMessage

TO = Place(user="u", host="h")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("deploy@web1", "deploy@web1:22"),
        ("deploy@web1:2222", "deploy@web1:2222"),
        ("root@[fe80::1]:23", "root@[fe80::1]:23"),
        ("root@[::1]", "root@[::1]:22"),
        ("me@corp.example@web1", "me@corp.example@web1:22"),
    ],
)
def test_a_place_is_read_and_written_in_one_form(text: str, meant: str) -> None:
    assert str(place(text)) == meant
    assert place(meant) == place(text)


@given(st.text(max_size=40))
def test_what_is_no_place_is_refused_and_never_breaks(text: str) -> None:
    try:
        found = place(text)
    except Invalid:
        return
    assert not found.host.startswith("-") and not found.user.startswith("-")
    assert 0 < found.port < 65536


@pytest.mark.parametrize("text", ["", "web1", "u@", "@h", "u@h:0", "u@h:70000", "u@-oProxy=x"])
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(Invalid):
        place(text)


def test_a_host_key_is_a_fingerprint_or_a_public_key_without_its_comment() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    public = key.export_public_key("openssh").decode().strip()
    assert check_key(f"{public} root@web1") == " ".join(public.split()[:2])
    assert check_key(key.get_fingerprint()) == key.get_fingerprint()
    with pytest.raises(Invalid):
        check_key("MD5:00:11")


def test_the_first_key_is_pinned_only_when_that_was_ordered(tmp_path: Path) -> None:
    first, second = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    pins = tmp_path / "known_hosts"
    assert not Pins(pins, TO, "", accept_new=False).allows(first)
    assert not pins.exists()
    assert Pins(pins, TO, "", accept_new=True).allows(first)
    assert Pins(pins, TO, "", accept_new=False).allows(first)
    changed = Pins(pins, TO, "", accept_new=True)
    assert not changed.allows(second)
    told = changed.refusal()
    assert told.code == "host_key_changed"
    assert first.get_fingerprint() in told.message and second.get_fingerprint() in told.message
    assert Pins(pins, TO, second.get_fingerprint(), accept_new=False).allows(second)
    assert not Pins(pins, TO, "", accept_new=False).allows(first)


def test_what_is_carried_needs_the_standard_library_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", carry.BOOT, "quarterdeck.agent.ssh.far", "x", "y"],
        input=carry.sources(),
        capture_output=True,
        check=False,
        env={"XDG_STATE_HOME": str(tmp_path), "PATH": "/bin"},
        cwd="/",
    )
    assert b'"event":"hello"' in done.stdout, done.stderr.decode()


def test_the_command_is_one_line_for_any_login_shell() -> None:
    command = carry.command(carry.FAR, ["id", "MARK"])
    assert "\n" not in command and "!" not in command and "\\" not in command


def test_a_host_without_python_is_told() -> None:
    command = carry.command(carry.FAR, ["id", "MARK"])
    done = subprocess.run(
        ["/bin/sh", "-c", command], env={"PATH": "/nowhere"}, capture_output=True, check=False
    )
    assert done.returncode == 86 and carry.NO_PYTHON.encode() in done.stdout


async def test_without_the_extra_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(Unavailable) as told:
        await road.reach(AgentlessMessage(id="x", name="x", place="u@h"), tmp_path)
    assert "quarterdeck[ssh]" in told.value.message
