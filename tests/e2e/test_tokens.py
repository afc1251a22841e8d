"""Tokens from the command line: kinds, namespaces, scopes, links; and what they may not."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from quarterdeck.core.access import parse
from tests.e2e.up import QD, Up, wait_for

DENIED, NOT_FOUND, USAGE = 4, 5, 2


def make(up: Up, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = up.json("token", "create", *words)
    return found


def with_token(up: Up, token: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    env = {**up.env, "QD_URL": up.ready["url"], "QD_TOKEN": token}
    return subprocess.run([QD, *words], env=env, capture_output=True, timeout=60, check=False)


def test_a_token_is_made_listed_and_revoked_with_its_namespace_scope_and_last_use(up: Up) -> None:
    made = make(
        up, "--kind", "send", "--namespace", "web", "--scope", "deploy-*", "--expires", "1d"
    )
    found = parse(made["token"])
    assert found is not None and (found.kind, found.id) == ("send", made["id"])
    assert (made["namespace"], made["scope"], made["last_used"]) == ("web", "deploy-*", None)
    table = up.qd("token", "list").stdout.decode()
    (row,) = [line for line in table.splitlines() if made["id"] in line]
    assert row.split()[1:4] == ["send", "web", "deploy-*"] and "in 2" in row
    api = make(up, "--kind", "api")
    assert api["namespace"] == "default"
    assert with_token(up, api["token"], "nodes").returncode == 0

    def used() -> bool:
        listed = up.json("token", "list")["items"]
        return any(one["id"] == api["id"] and one["last_used"] for one in listed)

    wait_for("the last use", used)
    assert up.qd("token", "revoke", api["id"]).returncode == 0
    refused = with_token(up, api["token"], "nodes")
    assert refused.returncode == DENIED and b"was revoked" in refused.stderr


def test_runs_and_locks_of_two_namespaces_do_not_meet(up: Up) -> None:
    one, two = (make(up, "--kind", "api", "--namespace", name)["token"] for name in ("one", "two"))
    done = with_token(up, one, "run", "-t", up.node_names()[0], "--json", "--", "echo hi")
    assert done.returncode == 0, done
    run = json.loads(done.stdout.splitlines()[0])["id"]
    for words in (("show", run), ("logs", run), ("cancel", run), ("retry", run), ("show", "last")):
        refused = with_token(up, two, *words)
        assert (refused.returncode, refused.stdout) == (NOT_FOUND, b""), words
    listed = json.loads(with_token(up, two, "runs", "--json").stdout)
    assert listed["items"] == []
    of_all = up.json("runs", "--namespace", "one")["items"]
    assert [item["id"] for item in of_all] == [run]
    assert up.json("runs", "--namespace", "two")["items"] == []
    # the same name is another lock in another namespace
    inner = f"{QD} lock deploy --wait 0 --namespace two -- true"
    assert up.qd("lock", "deploy", "--namespace", "one", "--", inner).returncode == 0
    held = f"{QD} lock deploy --wait 0 --namespace one -- true"
    assert up.qd("lock", "deploy", "--namespace", "one", "--", held).returncode == 75
    foreign = with_token(up, two, "locks", "--namespace", "one")
    assert foreign.returncode == DENIED and b"is for namespace two" in foreign.stderr


def test_a_token_of_one_namespace_decides_nothing_about_nodes(up: Up) -> None:
    token = make(up, "--kind", "api", "--namespace", "one")["token"]
    node = up.node_names()[0]
    assert with_token(up, token, "nodes").returncode == 0
    for words in (("node", "drain", node), ("token", "create", "--kind", "join")):
        refused = with_token(up, token, *words)
        assert refused.returncode == DENIED and b"namespace one only" in refused.stderr


def test_send_and_watch_tokens_do_only_that(up: Up) -> None:
    send, watch = (make(up, "--kind", kind)["token"] for kind in ("send", "watch"))
    run = up.detach(up.node_names()[0], "--", "echo seen")
    up.ended(run)
    assert with_token(up, watch, "logs", run).stdout.endswith(b"seen\n")
    for seen in (("watch", run), ("show", run), ("runs",)):
        assert with_token(up, watch, *seen).returncode == 0, seen
    for token, words in (
        (send, ("runs",)),
        (send, ("logs", run)),
        (send, ("run", "-t", "all", "--", "id")),
        (watch, ("run", "-t", "all", "--", "id")),
        (watch, ("cancel", run)),
        (watch, ("token", "list")),
        (watch, ("nodes",)),
    ):
        refused = with_token(up, token, *words)
        assert refused.returncode == DENIED, (words, refused)
        assert b"can't make this call" in refused.stderr
    assert b"--kind watch`" in with_token(up, send, "runs").stderr
    wrong = up.qd("token", "create", "--kind", "send", "--namespace", "bad ns")
    assert wrong.returncode == USAGE and b"can't be the name of a namespace" in wrong.stderr


def test_a_link_shows_one_name_and_is_taken_back(up: Up) -> None:
    shared = up.json("share", "deploy", "--expires", "1h", "--namespace", "web")
    where, _, secret = shared["url"].partition("#access_token=")
    assert where == f"{up.ready['url']}/trace/deploy?namespace=web"
    found = parse(secret)
    assert found is not None and (found.id, found.fingerprint) == (shared["id"], "")
    assert (shared["kind"], shared["scope"], shared["namespace"]) == ("watch", "deploy", "web")
    plain = up.qd("share", "deploy")
    assert plain.stdout.startswith(f"{up.ready['url']}/trace/deploy#access_token=".encode())
    assert b"qd token revoke" in plain.stderr
    wrong = up.qd("share", "../etc")
    assert wrong.returncode == USAGE and b"can't be the name of a trace" in wrong.stderr
    assert with_token(up, secret, "runs").returncode == DENIED
