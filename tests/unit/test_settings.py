"""Settings: which source wins, what is refused and how, and what a task inherits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.errors import Invalid
from quarterdeck.settings import (
    AgentSettings,
    ClientSettings,
    Secret,
    ServerSettings,
    Settings,
    UpSettings,
    client_file,
    default_data,
    host_name,
    ingest_places,
    is_wildcard,
    join_listen,
    load,
    reachable_host,
    read_labels,
    split_listen,
)
from quarterdeck.settings.environment import marked, task_environment, without_mark


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "quarterdeck.toml"


def test_a_file_loses_to_the_environment_and_both_to_a_flag(file: Path) -> None:
    name = written(file, 'data = "file"\nlisten = "file:1"\nlog_level = "debug"\n')
    settings = load(
        ServerSettings,
        file=name,
        environ={"QD_LISTEN": "env:2", "QD_LOG_LEVEL": "warning"},
        flags={"log_level": "error"},
    )
    assert (settings.data, settings.listen, settings.log_level) == ("file", "env:2", "error")


def test_a_flag_that_was_not_given_and_an_empty_variable_decide_nothing(file: Path) -> None:
    name = written(file, 'data = "file"\nlog_level = "debug"\n')
    settings = load(
        ServerSettings, file=name, environ={"QD_DATA": ""}, flags={"log_level": None, "data": None}
    )
    assert (settings.data, settings.log_level) == ("file", "debug")


def test_without_any_source_the_defaults_stand() -> None:
    assert load(UpSettings, environ={}) == UpSettings()


def test_variables_are_read_as_numbers_where_numbers_belong() -> None:
    settings = load(UpSettings, environ={"QD_NODES": "3", "QD_HEARTBEAT_S": "0.5"})
    assert (settings.nodes, settings.heartbeat_s) == (3, 0.5)


def test_variables_of_others_are_left_alone() -> None:
    environ = {"QD_ATTEMPT": "x", "QD_UNKNOWN": "y", "DATA": "z", "qd_data": "z"}
    assert load(ServerSettings, environ=environ) == ServerSettings()


def test_labels_of_file_variable_and_flag_are_put_together(file: Path) -> None:
    name = written(file, '[labels]\nenv = "prod"\ndc = "ams"\nrack = "1"\n')
    settings = load(
        AgentSettings,
        file=name,
        environ={"QD_LABELS": "dc=fra, group=web,group=edge,rack=2"},
        flags={"labels": read_labels(["rack=3"], "--label")},
    )
    assert settings.labels == {"env": "prod", "dc": "fra", "rack": "3", "group": "web,edge"}


@pytest.mark.parametrize("text", ["dc", "dc=ams,web", "=x", ","])
def test_a_label_without_a_key_or_a_value_is_a_sentence(text: str) -> None:
    with pytest.raises(Invalid, match=r"QD_LABELS holds .* a label is written KEY=VALUE"):
        load(AgentSettings, environ={"QD_LABELS": text})


def test_labels_come_from_the_file(file: Path) -> None:
    name = written(file, '[labels]\nenv = "prod"\ngroup = "web,edge"\n')
    settings = load(AgentSettings, file=name, environ={})
    assert settings.labels == {"env": "prod", "group": "web,edge"}


def test_an_unknown_key_is_refused_with_file_and_suggestion(file: Path) -> None:
    name = written(file, 'lisen = "x:1"\n')
    with pytest.raises(Invalid, match="Did you mean 'listen'") as caught:
        load(ServerSettings, file=name, environ={})
    assert name in caught.value.message and "'lisen'" in caught.value.message


def test_an_unknown_key_far_from_all_others_is_refused_without_a_suggestion(file: Path) -> None:
    with pytest.raises(Invalid, match="'zzzzzz' is not a setting") as caught:
        load(ServerSettings, file=written(file, "zzzzzz = 1\n"), environ={})
    assert "Did you mean" not in caught.value.message


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(Invalid):
        load(ServerSettings, environ={}, flags={"colour": "red"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("min_free_mib = 'much'", "min_free_mib"),
        ("min_free_mib = 1.5", "min_free_mib"),
        ("data = 5", "data"),
        ("data = ['x']", "data"),
        ("listen = 'nowhere'", "HOST:PORT"),
        ("log_level = 'loud'", "debug, info, warning or error"),
        ("data = ", "can't be read"),
        ("data = '\ud800'".encode("utf-8", "surrogatepass").decode("latin-1"), ""),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(file: Path, text: str, words: str) -> None:
    if not words:
        file.write_bytes(text.encode("latin-1"))
        words = "can't be read"
        name = str(file)
    else:
        name = written(file, text)
    with pytest.raises(Invalid, match=words) as caught:
        load(ServerSettings, file=name, environ={})
    assert caught.value.code in ("settings", "listen")


@pytest.mark.parametrize("nodes", ["-1", "1001", "two"])
def test_a_senseless_number_of_nodes_is_refused(nodes: str) -> None:
    with pytest.raises(Invalid):
        load(UpSettings, environ={"QD_NODES": nodes})


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_senseless_heartbeat_is_refused(seconds: str) -> None:
    with pytest.raises(Invalid):
        load(AgentSettings, environ={"QD_HEARTBEAT_S": seconds})


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(Invalid, match="QD_NODES"):
        load(UpSettings, environ={"QD_NODES": "two"})


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "no.toml", "does not exist"), (tmp_path, "can't be read")):
        with pytest.raises(Invalid, match=words):
            load(ServerSettings, file=str(path), environ={})


@pytest.mark.parametrize("kind", [ServerSettings, AgentSettings, UpSettings, ClientSettings])
def test_every_setting_has_a_default_and_can_not_be_changed(kind: type[Settings]) -> None:
    settings: Any = kind()
    for field in kind.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(settings, field, getattr(settings, field))


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:7333", ("127.0.0.1", 7333)),
        (":80", ("0.0.0.0", 80)),
        ("[::1]:7333", ("::1", 7333)),
        ("[::]:0", ("::", 0)),
        ("web1.example:65535", ("web1.example", 65535)),
    ],
)
def test_an_address_is_host_and_port(listen: str, expected: tuple[str, int]) -> None:
    assert split_listen(listen) == expected


@pytest.mark.parametrize("listen", ["127.0.0.1:7333", "[::1]:7333", "[::]:0", "web1.example:1"])
def test_host_and_port_join_to_the_same_address(listen: str) -> None:
    assert join_listen(*split_listen(listen)) == listen


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.1", "10.0.0.1"), ("fe80::1", "fe80::1")],
)
def test_a_wildcard_is_reached_by_loopback_and_others_as_they_are(host: str, reached: str) -> None:
    assert reachable_host(host) == reached
    assert is_wildcard(host) is (reached != host)


@pytest.mark.parametrize(
    "listen", ["", "localhost", "localhost:", "7333", "h:65536", "h:-1", "h:x", "h: 1", "h:1 "]
)
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(Invalid, match="HOST:PORT"):
        split_listen(listen)


@pytest.mark.parametrize("listen", ["h:\u00b2", "h:\u0663"])
def test_a_port_in_other_digits_is_refused(listen: str) -> None:
    with pytest.raises(Invalid, match="HOST:PORT"):
        split_listen(listen)


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")
    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]}", "%s" % secret):  # noqa: UP031
        assert "hunter2" not in shown
    assert secret.reveal() == "hunter2"
    assert secret and not Secret("")


@pytest.mark.parametrize("kind", [AgentSettings, ClientSettings])
def test_a_token_is_not_in_the_repr_of_settings(kind: type[Settings]) -> None:
    assert "hunter2" not in repr(load(kind, environ={"QD_TOKEN": "hunter2"}))


def test_a_task_inherits_neither_our_variables_nor_what_is_not_utf8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in list(os.environ):
        monkeypatch.delenv(key)
    monkeypatch.setenv("QD_TOKEN", "secret")
    monkeypatch.setenv("QD_ATTEMPT", "x")
    monkeypatch.setenv("QDX", "kept")
    monkeypatch.setenv("NAME", "Zoë")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("BAD", os.fsdecode(b"\xff\xfe"))
    monkeypatch.setenv(os.fsdecode(b"BAD\xff"), "x")
    assert task_environment() == {"QDX": "kept", "NAME": "Zoë", "EMPTY": ""}


def test_the_mark_of_an_attempt_is_seen_and_can_be_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("QD_ATTEMPT", raising=False)
    assert marked() is None
    monkeypatch.setenv("QD_ATTEMPT", "a-0-1")
    monkeypatch.setenv("QD_DATA", "d")
    assert marked() == "a-0-1"
    assert "QD_ATTEMPT" not in without_mark() and without_mark()["QD_DATA"] == "d"


def test_homes_follow_the_xdg_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert default_data() == str(tmp_path / ".local/share/quarterdeck")
    assert client_file() == tmp_path / ".config/quarterdeck/config.toml"
    monkeypatch.setenv("XDG_DATA_HOME", "/d")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    assert default_data() == "/d/quarterdeck"
    assert client_file() == Path("/c/quarterdeck/config.toml")


def test_root_keeps_its_data_in_var_lib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data() == "/var/lib/quarterdeck"


def test_a_host_name_is_fit_for_a_node_name() -> None:
    assert host_name() and set(host_name()) & set(" /*?()!&|,") == set()


@pytest.mark.parametrize("kind", [ServerSettings, UpSettings])
def test_a_database_is_sqlite_or_the_address_of_a_postgresql(kind: type[Settings]) -> None:
    assert not load(kind, environ={"QD_DATABASE": ""}).database  # type: ignore[attr-defined]
    url = "postgresql://u:hunter2@h/x"
    settings = load(kind, environ={"QD_DATABASE": url})
    assert settings.database.reveal() == url  # type: ignore[attr-defined]
    assert "hunter2" not in repr(settings)
    for wrong in ("mysql://u:hunter2@h/x", "/var/lib/x.db", "postgres://u:hunter2@h/x"):
        with pytest.raises(Invalid, match="postgresql://USER:PASSWORD@HOST:PORT/NAME") as caught:
            load(kind, environ={}, flags={"database": wrong})
        assert "hunter2" not in caught.value.message


def test_where_foreign_senders_are_heard_is_read() -> None:
    settings = load(UpSettings, environ={"QD_INGEST": "rtail=:9999, syslog=[::1]:514,"})
    assert ingest_places(settings.ingest) == {"rtail": ("0.0.0.0", 9999), "syslog": ("::1", 514)}
    assert ingest_places(ServerSettings().ingest) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rtial=:9999", "protocols are rtail, logio, logio4, syslog"),
        ("9999", "PROTOCOL=HOST:PORT"),
        ("rtail=:1,rtail=:2", "each once"),
        ("syslog=host", "ingest, syslog: 'host' is not an address"),
        ("syslog=:70000", "HOST:PORT"),
    ],
)
def test_a_wrong_place_for_foreign_senders_is_a_sentence(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        load(ServerSettings, environ={"QD_INGEST": text})
    with pytest.raises(Invalid, match="ingest_namespace"):
        load(ServerSettings, environ={"QD_INGEST_NAMESPACE": "a b"})
