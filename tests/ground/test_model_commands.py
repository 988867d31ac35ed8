"""`ground model` with bad input: one line that says what to do, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ground import cli
from ground.model import difference
from ground.model.unit import MANIFEST, file_of, unit_of
from tests.ground.liar import lying, respond
from tests.tiny_model import write_model


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert cli.main(["model", "keys", str(tmp_path / "keys")]) == 0
    capsys.readouterr()
    return tmp_path / "keys"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which a command is refused."""
    assert cli.main(["model", *words]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_a_folder_that_is_no_model_is_refused(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(capsys, "sign", str(tmp_path / "nowhere"), "--keys", str(keys))
    folder = write_model(tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"another")
    assert "not the file that manifest.json names" in refused(capsys, "sign", str(folder), "--keys", str(keys))
    (folder / "manifest.json").write_text("{}")
    assert "no manifest" in refused(capsys, "sign", str(folder), "--keys", str(keys))
    manifest = {"name": "../etc", "version": "1", "model": {"file": "model.onnx", "sha256": "0" * 64}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "use small letters" in refused(capsys, "sign", str(folder), "--keys", str(keys))
    assert not (keys / "targets.json").exists()


def test_keys_that_are_no_keys_are_refused(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path / "model")
    sign = ("sign", str(folder), "--keys")
    assert "make keys with" in refused(capsys, *sign, str(tmp_path / "none"))
    (tmp_path / "x.pem").write_text("no key")
    assert "holds no private key" in refused(capsys, *sign, str(keys), "--key", str(tmp_path / "x.pem"))
    root_key = str(keys / "private" / "root-1.pem")
    assert "no key of the role models" in refused(capsys, *sign, str(keys), "--key", root_key)
    assert "has no key 'models-9'" in refused(capsys, "keys", str(keys), "--replace", "models-9")
    assert "3 of 2 keys" in refused(capsys, "keys", str(tmp_path / "more"), "--model-threshold", "3")
    assert not (tmp_path / "more").exists()
    for path in (keys / "private").glob("models-*.pem"):
        path.unlink()
    assert "no private key for models" in refused(capsys, *sign, str(keys))
    (keys / "root.json").write_text("{}")
    assert "no root of trust" in refused(capsys, *sign, str(keys))
    assert not (keys / "targets.json").exists()


def test_signing_again_gives_a_new_version_only_where_something_changed(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model")
    sign = ["model", "sign", str(folder), "--keys", str(keys)]
    assert cli.main(sign) == 0
    assert cli.main(sign) == 0
    assert capsys.readouterr().out.count("list version 1") == 2
    assert cli.main(["model", "sign", str(write_model(tmp_path / "b", {"version": "2.0"})), "--keys", str(keys)]) == 0
    assert "list version 2" in capsys.readouterr().out
    assert cli.main(["model", "withdraw", str(folder), "--keys", str(keys)]) == 0
    assert "list version 3" in capsys.readouterr().out
    assert "the list does not name tiny 1.0" in refused(capsys, "withdraw", str(folder), "--keys", str(keys))


def test_what_is_not_signed_is_not_sent(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path / "model")
    line = refused(capsys, "push", str(folder), "http://127.0.0.1:9", "--keys", str(keys))
    assert "sign it with `ground model sign`" in line


def test_a_short_pass_asks_once_what_is_aboard_and_says_where_nothing_went_up(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model")
    assert cli.main(["model", "sign", str(folder), "--keys", str(keys)]) == 0
    unit = unit_of(folder)
    files = [
        {"name": name, "sha256": file.sha256, "bytes": file.bytes, "held": 0 if name == MANIFEST else file.bytes}
        for name, file in unit.files.items()
    ]
    model = {"digest": unit.digest, "name": unit.name, "version": unit.version, "origin": "uplink",
             "state": "receiving", "reason": "", "files": files, "figures": {}, "failures": 0,
             "in_service": False}  # fmt: skip
    answer = {
        "takes_models": True,
        "problem": None,
        "root_version": 1,
        "list_version": 1,
        "models": [model],
        "aboard": [],
    }
    size, manifest = len(json.dumps(answer)), unit.files[MANIFEST]
    taken = {"sha256": manifest.sha256, "bytes": manifest.bytes, "held": 100, "whole": False}
    with lying() as liar:
        put = f"PUT /models/files/{manifest.sha256}"
        liar.answers |= {"GET /models": respond(answer), put: respond(taken)}
        push = ["model", "push", str(folder), liar.url, "--keys", str(keys), "--whole"]
        capsys.readouterr()
        assert cli.main([*push, "--bytes", str(size)]) == 3
        assert "nothing went up in this pass" in capsys.readouterr().out
        liar.requests.clear()
        assert cli.main([*push, "--bytes", str(size + 300)]) == 3
        assert liar.requests[:2] == ["GET /models", put]


def test_the_smallest_way_up_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "LEAST_BYTES", 1)
    base = unit_of(write_model(tmp_path / "base")).files
    changed = unit_of(write_model(tmp_path / "changed", scale=1.01)).files
    found = difference.smallest(changed["model.onnx"], [base["model.onnx"]], tmp_path / "cache")
    assert found is not None
    assert (found.method, found.base) == ("planes", base["model.onnx"].sha256)
    again = difference.smallest(changed["model.onnx"], [base["model.onnx"]], tmp_path / "cache")
    assert again == found  # the same bytes in the next pass
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(256)) * 4 + base["golden.npz"].path.read_bytes())
    moved = difference.smallest(file_of(noise), [base["golden.npz"]], tmp_path / "cache")
    assert moved is not None
    assert moved.method == "bsdiff4"
    assert difference.smallest(base["golden.npz"], [], tmp_path / "cache") is None  # it hardly compresses
