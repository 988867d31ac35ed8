from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from onboard import cli
from onboard.api.auth import Caller, Tokens, add_token, check_binding, read_tokens, remove_token
from onboard.api.errors import NotAllowed, NotAuthenticated
from onboard.errors import OptionsRefused


def test_a_token_is_known_by_its_secret_alone_and_kept_as_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    first, second = add_token(path, "station", ["ground"]), add_token(path, "payload", ["ingest", "telemetry"])
    text = path.read_text()
    assert first not in text
    assert second not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    tokens = read_tokens(path)
    assert tokens.caller_of(f"Bearer {first}") == Caller("station", frozenset({"ground"}))
    assert tokens.caller_of(f"bearer  {second} ") == Caller("payload", frozenset({"ingest", "telemetry"}))
    remove_token(path, "station")
    with pytest.raises(NotAuthenticated, match="not known"):
        read_tokens(path).caller_of(f"Bearer {first}")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "station", "Bearer nothing"])
def test_whoever_gives_no_known_token_is_nobody(tmp_path: Path, header: str | None) -> None:
    add_token(tmp_path / "tokens.json", "station", ["ground"])
    with pytest.raises(NotAuthenticated):
        read_tokens(tmp_path / "tokens.json").caller_of(header)


def test_the_hash_that_is_kept_is_no_token(tmp_path: Path) -> None:
    add_token(tmp_path / "tokens.json", "station", ["operator"])
    kept = json.loads((tmp_path / "tokens.json").read_text())["tokens"][0]["sha256"]
    with pytest.raises(NotAuthenticated):
        read_tokens(tmp_path / "tokens.json").caller_of(f"Bearer {kept}")


def test_roles_reach_as_far_as_they_say() -> None:
    Caller("a", frozenset({"ground"})).must_be("ground")
    Caller("a", frozenset({"operator"})).must_be("ingest")
    Caller("a", frozenset({"telemetry"})).must_be("ground", "telemetry")
    with pytest.raises(NotAllowed, match="needs the role ingest, the token has ground, telemetry"):
        Caller("a", frozenset({"ground", "telemetry"})).must_be("ingest")


def test_names_and_roles_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    add_token(path, "station", ["ground"])
    with pytest.raises(OptionsRefused, match="is a token called 'station' already"):
        add_token(path, "station", ["ground"])
    with pytest.raises(OptionsRefused, match="give it some of ingest, ground, telemetry, uplink, operator"):
        add_token(path, "other", ["admin"])
    with pytest.raises(OptionsRefused, match="no token called 'other'; there are: station"):
        remove_token(path, "other")
    assert len(read_tokens(path)) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tokens": [{"name": "a"}]}', '{"tokens": 5}'])
def test_a_file_that_holds_something_else_opens_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(OptionsRefused, match=r"tokens\.json"):
        read_tokens(tmp_path / "tokens.json")


def test_without_tokens_only_this_machine_may_ask(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"):
        check_binding(host, Tokens())
    for host in ("0.0.0.0", "::", "192.168.0.2", "satellite.example", ""):
        with pytest.raises(OptionsRefused, match="anybody could command"):
            check_binding(host, Tokens())
    add_token(tmp_path / "tokens.json", "station", ["ground"])
    check_binding("0.0.0.0", read_tokens(tmp_path / "tokens.json"))


def test_the_command_prints_the_token_alone_and_says_beside_it_where_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONBOARD_DATA_DIR", str(tmp_path / "data"))
    kept = tmp_path / "data" / "tokens.json"
    assert cli.main(["token", "add", "station", "--role", "ground"]) == 0
    secret, said = capsys.readouterr()
    assert read_tokens(kept).caller_of(f"Bearer {secret.strip()}").name == "station"
    assert str(kept) in said
    assert "started again" in said
    assert secret.strip() not in said
    assert cli.main(["token", "remove", "station"]) == 0
    assert str(kept) in capsys.readouterr().err


def test_tokens_are_listed_by_name_and_role_without_their_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONBOARD_DATA_DIR", str(tmp_path / "data"))
    assert cli.main(["token", "list"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no tokens" in shown.err
    path = tmp_path / "data" / "tokens.json"
    secrets = [add_token(path, "station", ["ground", "telemetry"]), add_token(path, "ops", ["operator"])]
    assert cli.main(["token", "list"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "ops      operator\nstation  ground, telemetry\n"
    assert not any(secret in shown.out + shown.err for secret in secrets)
    assert cli.main(["token", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ops": ["operator"], "station": ["ground", "telemetry"]}
