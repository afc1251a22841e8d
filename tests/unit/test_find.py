"""Which server the command line talks to: flags, environment, data directory, settings file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from quarterdeck.client.find import connect
from quarterdeck.client.http import Connection
from quarterdeck.errors import Denied, Invalid, Unavailable


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own; the path of the settings file, which is not there yet."""
    for name in ("QD_URL", "QD_TOKEN", "QD_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    directory = tmp_path / "config" / "quarterdeck"
    directory.mkdir(parents=True)
    return directory / "config.toml"


def ready(directory: Path, url: str, token: str = "local") -> str:
    """A data directory as `qd up` leaves it; its path."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ready.json").write_text(json.dumps({"url": url, "token": token}))
    return str(directory)


def found(
    url: str | None = None, token: str | None = None, data: str | None = None
) -> tuple[str, str]:
    connection = connect(url=url, token=token, data=data)
    return connection.url, token_of(connection)


def token_of(connection: Connection) -> str:
    return connection._token


def test_url_and_token_of_the_flags_win_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QD_URL", "http://env:1")
    monkeypatch.setenv("QD_TOKEN", "env")
    assert found() == ("http://env:1", "env")
    assert found(url="http://flag:1/") == ("http://flag:1", "env")
    assert found(url="http://flag:1", token="flag") == ("http://flag:1", "flag")


def test_a_url_without_a_token_is_denied_with_a_way_out() -> None:
    with pytest.raises(Denied, match="QD_TOKEN"):
        found(url="http://flag:1")


def test_a_url_flag_wins_over_a_data_directory(tmp_path: Path) -> None:
    data = ready(tmp_path / "d", "http://local:1")
    assert found(url="http://flag:1", token="t", data=data) == ("http://flag:1", "t")


def test_a_data_directory_names_url_and_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ready(tmp_path / "one", "http://one:1", "token one")
    two = ready(tmp_path / "two", "http://two:1", "token two")
    monkeypatch.setenv("QD_DATA", one)
    assert found() == ("http://one:1", "token one")
    assert found(data=two) == ("http://two:1", "token two")


def test_a_data_flag_wins_over_the_url_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QD_URL", "http://env:1")
    monkeypatch.setenv("QD_TOKEN", "env")
    assert found(data=ready(tmp_path / "d", "http://local:1")) == ("http://local:1", "local")


def test_the_environment_and_flags_win_over_the_settings_file(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('url = "http://file:1"\ntoken = "file"\n')
    assert found() == ("http://file:1", "file")
    assert found(token="flag") == ("http://file:1", "flag")
    assert found(data=ready(tmp_path / "d", "http://local:1")) == ("http://local:1", "local")
    monkeypatch.setenv("QD_URL", "http://env:1")
    monkeypatch.setenv("QD_TOKEN", "env")
    assert found() == ("http://env:1", "env")


def test_the_token_of_the_settings_file_goes_to_no_other_url(config: Path) -> None:
    config.write_text('url = "http://file:1"\ntoken = "file"\n')
    with pytest.raises(Denied):
        found(url="http://other:1")


def test_the_settings_file_may_name_a_data_directory(config: Path, tmp_path: Path) -> None:
    config.write_text(f"data = {json.dumps(ready(tmp_path / 'd', 'http://local:1'))}\n")
    assert found() == ("http://local:1", "local")


def test_without_anything_the_default_directory_is_looked_at(tmp_path: Path) -> None:
    ready(tmp_path / "share" / "quarterdeck", "http://default:1")
    assert found() == ("http://default:1", "local")


def test_no_server_at_all_is_said_with_the_three_ways_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="qd up") as caught:
        found()
    assert "--url" in caught.value.message and "--data" in caught.value.message
    assert str(tmp_path / "share/quarterdeck/ready.json") in caught.value.message
    assert caught.value.code == "no_server"


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '"x"', "{}", '{"url": "http://h:1"}', "\xff"])
def test_a_damaged_ready_file_is_unavailable(tmp_path: Path, text: str) -> None:
    (tmp_path / "ready.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Unavailable, match="restart `qd up`"):
        found(data=str(tmp_path))


def test_a_mistake_in_the_settings_file_is_told(config: Path) -> None:
    config.write_text('ulr = "http://file:1"\n')
    with pytest.raises(Invalid, match="Did you mean 'url'"):
        found()


@pytest.mark.parametrize("url", ["web1", "ftp://web1", "http://", "http:web1"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="http://HOST:PORT"):
        found(url=url, token="t")


@pytest.mark.parametrize("url", ["http://[::1", "http://h:99999", "http://h:x"])
def test_a_url_that_can_not_be_taken_apart_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        connect(url=url, token="t", data=None).get("/")


def test_a_data_directory_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((Invalid, Unavailable)):
        found(data=str(tmp_path / "file"))
