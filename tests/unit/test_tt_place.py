"""Where tt finds its server, and how far a token goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from quarterdeck.tt import place as places
from quarterdeck.tt.place import Settings, place_of
from quarterdeck.tt.words import parse

PIN = "ab" * 32


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("TT_", "QD_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(places, "SYSTEM_FILE", str(tmp_path / "system.conf"))
    monkeypatch.setattr(places, "_default_data", lambda: str(tmp_path / "data"))
    return tmp_path


def found(*words: str) -> tuple[str, str, str]:
    """(url, token, id)"""
    settings = Settings(parse([*words, "true"], "tt"))
    assert settings.place is not None
    return settings.place.url, settings.place.token, settings.id


def test_flags_come_before_the_environment_and_that_before_the_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "system.conf").write_text("[tt]\nurl = http://system\ntoken = s\nid = sid\n")
    assert found() == ("http://system", "s", "sid")
    (home / ".tt.conf").write_text('# mine\nurl: http://mine/\ntoken = "m"\n')
    assert found() == ("http://mine", "m", "sid")
    monkeypatch.setenv("QD_URL", "http://qd")
    monkeypatch.setenv("QD_TOKEN", "q")
    assert found() == ("http://qd", "q", "sid")
    monkeypatch.setenv("TT_URL", "http://env")
    monkeypatch.setenv("TT_TOKEN", "e")
    monkeypatch.setenv("TT_ID", "eid")
    assert found() == ("http://env", "e", "eid")
    assert found("--url", "http://flag", "--token", "f", "--id", "x") == ("http://flag", "f", "x")


def test_a_token_does_not_go_to_the_server_of_another_place(home: Path) -> None:
    (home / ".tt.conf").write_text("url = http://mine\ntoken = m\n")
    assert found("--url", "http://elsewhere")[:2] == ("http://elsewhere", "")
    assert found("--url", "http://mine")[:2] == ("http://mine", "m")


def test_a_token_without_a_url_beside_it_goes_with_any(home: Path) -> None:
    (home / ".tt.conf").write_text("token = m\n")
    (home / "system.conf").write_text("url = http://system\n")
    assert found()[:2] == ("http://system", "m")
    assert found("--url", "http://flag")[:2] == ("http://flag", "m")


def test_a_token_file_is_read(home: Path) -> None:
    (home / "token").write_text("t\n")
    assert found("--url", "http://x", "--token-file", str(home / "token"))[1] == "t"


def test_a_token_file_that_is_not_there_is_told_in_words(home: Path) -> None:
    settings = Settings(parse(["--token-file", str(home / "none"), "true"], "tt"))
    told = f"the token file {home / 'none'} can't be read (No such file or directory)."
    assert settings.warnings == [told]


def test_the_fingerprint_of_a_token_is_pinned_and_not_sent() -> None:
    settings = Settings(parse(["--url", "https://x", "--token", f"qd_send_i_s_{PIN}", "a"], "tt"))
    assert settings.place is not None
    assert (settings.place.token, settings.place.fingerprint) == ("qd_send_i_s", PIN)


def test_a_data_directory_is_read_anew_each_time(home: Path) -> None:
    settings = Settings(parse(["--data", str(home / "data"), "true"], "tt"))
    place = settings.place
    assert place is not None and not place.refresh()
    (home / "data").mkdir()
    (home / "data" / "ready.json").write_text(json.dumps({"url": "http://new", "token": "n"}))
    assert place.refresh() and (place.url, place.token) == ("http://new", "n")
    assert place_of(place.as_json()).data == place.data


def test_qds_own_settings_are_the_last(home: Path) -> None:
    (home / "config" / "quarterdeck").mkdir(parents=True)
    file = home / "config" / "quarterdeck" / "config.toml"
    file.write_text("url = \"http://toml\" # ours\ntoken = 't'\n")
    assert found()[:2] == ("http://toml", "t")


def test_without_any_there_is_no_place_and_a_wrong_line_is_told(home: Path) -> None:
    (home / ".tt.conf").write_text("colour = red\nspool_mib = many\nid = a\x07b\n")
    settings = Settings(parse(["true"], "tt"))
    assert settings.place is None
    assert settings.disk == 1 << 30 and settings.id
    assert len(settings.warnings) == 3
