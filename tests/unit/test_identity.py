"""Keys, logins and the authority, without a server."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from quarterdeck.errors import Broken, Conflict, Denied, Invalid
from quarterdeck.fabric.identity import Authority, Identity, verify
from tests.unit.jwt_reader import claims_of

NOW = 1_800_000_000


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority")


@pytest.fixture
def key(tmp_path: Path) -> str:
    return Identity.open(tmp_path / "key").public_key


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_identity_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node"
    first = Identity.open(path)
    assert Identity.open(path).public_key == first.public_key
    assert first.public_key.startswith("U")
    assert mode(path) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["node"]


def test_a_broken_seed_file_is_told_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "node"
    path.write_text("not a seed")
    with pytest.raises(Invalid, match="not an nkey seed"):
        Identity.open(path)
    assert path.read_text() == "not a seed"


def test_a_signature_fits_its_key_and_data_only(tmp_path: Path) -> None:
    identity, other = Identity.open(tmp_path / "a"), Identity.open(tmp_path / "b")
    signature = identity.sign(b"start")
    assert len(signature) == 64
    assert verify(identity.public_key, b"start", signature)
    assert not verify(identity.public_key, b"stop", signature)
    assert not verify(other.public_key, b"start", signature)


@pytest.mark.parametrize("text", ["", "U", "U" * 56, "hello", "\u00dc" * 56, "u" * 56, "U" * 5600])
def test_what_is_no_key_verifies_nothing(text: str) -> None:
    assert not verify(text, b"data", b"\0" * 64)


def test_a_key_with_one_letter_changed_verifies_nothing(key: str, tmp_path: Path) -> None:
    signature = Identity.open(tmp_path / "key").sign(b"data")
    for place in range(56):
        changed = key[:place] + ("A" if key[place] != "A" else "B") + key[place + 1 :]
        assert not verify(changed, b"data", signature)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_length_is_false(key: str, size: int) -> None:
    assert not verify(key, b"data", b"\0" * size)


def test_an_authority_is_the_same_when_opened_again(authority: Authority, tmp_path: Path) -> None:
    again = Authority.open(tmp_path / "authority")
    assert again.account == authority.account
    assert again.operator_jwt == authority.operator_jwt
    assert again.account_jwt == authority.account_jwt
    assert again.system_account_jwt == authority.system_account_jwt
    assert mode(tmp_path / "authority") == 0o700
    assert {mode(path) for path in (tmp_path / "authority").iterdir()} == {0o600}


def test_an_authority_does_not_take_over_a_foreign_directory(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis").write_text("mine")
    with pytest.raises(Conflict, match="is not empty"):
        Authority.open(foreign)
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_an_authority_without_one_of_its_keys_is_broken(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "authority" / "node.nk").unlink()
    with pytest.raises(Broken, match="restore it from a backup"):
        Authority.open(tmp_path / "authority")


def test_the_operator_signs_both_accounts(authority: Authority) -> None:
    operator = claims_of(authority.operator_jwt)
    assert operator["sub"] == operator["iss"]
    assert operator["nats"]["system_account"] == authority.system_account
    for token, account in (
        (authority.account_jwt, authority.account),
        (authority.system_account_jwt, authority.system_account),
    ):
        claims = claims_of(token)
        assert (claims["iss"], claims["sub"]) == (operator["sub"], account)


def test_a_node_has_no_rights_but_those_of_its_role(authority: Authority, key: str) -> None:
    claims = claims_of(authority.mint_node("web-1", key, now=NOW, ttl_s=60))
    assert (claims["name"], claims["sub"]) == ("web-1", key)
    assert (claims["iat"], claims["exp"]) == (NOW, NOW + 60)
    assert claims["nats"] == {"type": "user", "version": 2, "issuer_account": authority.account}
    roles = {role["key"]: role for role in claims_of(authority.account_jwt)["nats"]["signing_keys"]}
    assert roles[claims["iss"]]["role"] == "node"
    assert roles[claims["iss"]]["template"]["pub"]["allow"] == [
        "hb.{{name()}}",
        "ev.{{name()}}.>",
        "out.{{name()}}.>",
        "tail.{{name()}}.*.out",
    ]


@pytest.mark.parametrize(
    "name", ["*", ">", "a.b", "", "a b", "a\n", "{{name()}}", "\u00e4", "a" * 65, "a/b", "$SYS"]
)
def test_an_id_that_could_become_a_wildcard_is_refused(
    authority: Authority, key: str, name: str
) -> None:
    for mint in (authority.mint_node, authority.mint_server, authority.mint_system):
        with pytest.raises(Invalid, match="can't be an id"):
            mint(name, key, now=NOW, ttl_s=60)


@pytest.mark.parametrize("bad", ["", "U" * 56, "x"])
def test_only_a_user_key_gets_a_login(authority: Authority, bad: str) -> None:
    for public_key in (bad, authority.account):
        with pytest.raises(Invalid, match="no public user nkey"):
            authority.mint_node("n1", public_key, now=NOW, ttl_s=60)


def test_a_login_that_never_was_valid_is_refused(authority: Authority, key: str) -> None:
    with pytest.raises(Invalid):
        authority.mint_node("n1", key, now=NOW, ttl_s=0)


def test_a_revocation_is_kept_and_makes_the_account_newer(
    authority: Authority, key: str, tmp_path: Path
) -> None:
    supervisor = Authority.open(tmp_path / "authority")
    before = claims_of(authority.account_jwt)
    assert authority.revoke({key: NOW}, prune_before=0, now=NOW)
    assert not authority.revoke({key: NOW - 5}, prune_before=0, now=NOW)
    after = claims_of(supervisor.account_jwt)
    assert after["nats"]["revocations"] == {key: NOW}
    assert after["iat"] > before["iat"]
    assert after["nats"]["signing_keys"] == before["nats"]["signing_keys"]
    assert supervisor.revoke({}, prune_before=NOW + 1, now=NOW)
    pruned = claims_of(authority.account_jwt)
    assert "revocations" not in pruned["nats"]
    assert pruned["iat"] > after["iat"]


def test_a_changed_template_reaches_the_account(tmp_path: Path, authority: Authority) -> None:
    record = tmp_path / "authority" / "account.json"
    record.write_text(record.read_text().replace("hb.{{name()}}", "old.{{name()}}"))
    before = claims_of(authority.account_jwt)
    after = claims_of(Authority.open(tmp_path / "authority").account_jwt)
    assert "old." in str(before)
    assert "old." not in str(after)
    assert after["iat"] > before["iat"]


class Answering:
    """Stands for the system account's side of the fabric."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        assert subject == "$SYS.REQ.CLAIMS.UPDATE"
        return self._answer


@pytest.mark.anyio
async def test_a_refused_account_update_is_an_error(authority: Authority) -> None:
    refusal = b'{"error": {"code": 500, "description": "jwt not trusted"}}'
    with pytest.raises(Denied, match="jwt not trusted"):
        await authority.push_account(Answering(refusal))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
