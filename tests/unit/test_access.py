"""Tokens as text, scopes and namespaces as words, and a token in a query that nobody sees."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.api.front import hidden_token
from quarterdeck.api.hide import hide
from quarterdeck.core.access import check_namespace, check_scope, covers
from quarterdeck.errors import Denied, Invalid
from quarterdeck.store.access import Principal


@pytest.mark.parametrize(
    ("scope", "fits", "fits_not"),
    [
        ("", ("deploy", "x"), ()),
        ("deploy", ("deploy",), ("Deploy", "deploy2", "xdeploy", "deplo")),
        ("deploy-*", ("deploy-", "deploy-1"), ("deploy", "a-deploy-1")),
        ("?eplo[xy]", ("deploy", "Xeplox"), ("eploy", "deploz")),
        ("[!d]eploy", ("xeploy",), ("deploy",)),
        ("a.c", ("a.c",), ("abc",)),
        ("[", (), ("a",)),
        ("[]", (), ("a", "]")),
        ("[z-a]", (), ("a", "z", "-")),
        ("*" * 100, ("deploy", "a" * 100), ()),
        ("*a" * 49, (), ("a" * 40 + "b",)),
    ],
)
def test_a_scope_fits_whole_names(
    scope: str, fits: tuple[str, ...], fits_not: tuple[str, ...]
) -> None:
    if scope:
        check_scope(scope)
    assert [name for name in (*fits, *fits_not) if covers(scope, name)] == list(fits)


@pytest.mark.parametrize("text", ["", "a b", "a/b", "a\n", "a|b", "x" * 101, "{a,b}", "\x00", "é"])
def test_what_is_no_glob_of_names_is_no_scope(text: str) -> None:
    with pytest.raises(Invalid, match="can't be a scope"):
        check_scope(text)


@pytest.mark.parametrize("text", ["", "*", "-a", ".", "a b", "a/b", "a\n", "x" * 65, "é", "a*"])
def test_what_is_no_name_is_no_namespace(text: str) -> None:
    with pytest.raises(Invalid, match="can't be the name of a namespace"):
        check_namespace(text)


def test_a_principal_acts_in_its_namespace_or_in_the_one_it_may_choose() -> None:
    root, one = Principal("r", "api", "*"), Principal("o", "api", "team")
    assert (root.home, one.home) == ("default", "team")
    assert (root.at(None).namespace, root.at("team").namespace) == ("default", "team")
    assert (one.at(None).namespace, one.at("team").namespace) == ("team", "team")
    assert (root.within(None).namespace, root.within("team").namespace) == ("*", "team")
    assert (one.sees("team"), one.sees("*"), one.sees("default"), root.sees("x")) == (
        True,
        False,
        False,
        True,
    )
    for wrong in ("default", "Team"):
        with pytest.raises(Denied, match="is for namespace team"):
            one.at(wrong)
        with pytest.raises(Denied):
            one.within(wrong)
    with pytest.raises(Invalid):
        root.at("*")


@pytest.mark.parametrize(
    ("query", "left", "token"),
    [
        (b"", b"", ""),
        (b"a=1&b=2", b"a=1&b=2", ""),
        (b"access_token=T", b"", "T"),
        (b"a=1&access_token=T&b=2", b"a=1&b=2", "T"),
        (b"access%5Ftoken=T", b"", "T"),
        (b"%61ccess_token=%54", b"", "T"),
        (b"access_token=S&access_token=T", b"", "T"),
        (b"access_token", b"", ""),
        (b"access_token=%FF%00+x", b"", "\ufffd\0 x"),
        (b"Access_Token=T&access_token2=T", b"Access_Token=T&access_token2=T", ""),
    ],
)
def test_a_token_is_taken_out_of_the_query(query: bytes, left: bytes, token: str) -> None:
    scope: dict[str, Any] = {"type": "http", "query_string": query}
    hide(scope)
    assert (scope["query_string"], hidden_token(scope)) == (left, token.strip())
