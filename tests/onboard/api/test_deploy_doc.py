"""docs/deploy-jetson.md as far as it can be followed without a board: tokens, uploads, a pull, what compose reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.onboard.service import ROOT, running, write_scene

DOC = ROOT / "docs" / "deploy-jetson.md"
OPERATIONS = ROOT / "docs" / "jetson-operations.md"
ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|10\.0\.0\.2):8000")
RUN = re.compile(r"^    \$COMPOSE run --rm -T jetson (token add .+)$", re.MULTILINE)


def commands(*begin: str) -> list[str]:
    """Lines of the document's blocks that begin so."""
    lines = [line[4:] for line in DOC.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    return [line for line in lines if line.startswith(begin)]


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    return subprocess.run(
        command, shell=True, cwd=folder, env=os.environ | paths | environment, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


def test_tokens_uploads_and_the_pull_work_as_they_are_written(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    data = tmp_path / "service" / "data"
    tokens = RUN.findall(DOC.read_text(encoding="utf-8"))
    assert len(tokens) == 2
    for token in tokens:
        made = shell(f'"$PYTHON" -m onboard.cli {token}', tmp_path, ONBOARD_DATA_DIR=str(data))
        assert (made.returncode, made.stdout) == (0, ""), made.stderr  # the token went into its file
        assert made.stderr.startswith(f"onboard: kept, hashed, in {data}/tokens.json; "), made.stderr
    write_scene(tmp_path / "scene.tif", 100)
    with running(data) as served:
        curls = commands("curl ")
        assert sum("-X POST" in curl for curl in curls) == 1
        for curl in curls:
            done = shell(ADDRESS.sub(served.url, curl.partition("  #")[0]), tmp_path)
            assert done.returncode == 0, (curl, done.stderr)
            assert "urn:onboard:problem" not in done.stdout, (curl, done.stdout)
        (row,) = json.loads(shell(ADDRESS.sub(served.url, curls[2]), tmp_path).stdout)["scenes"]
        served.wait_for(row["id"], "mapped")
        (pull,) = commands("ground pull")
        ground = pull.replace("ground pull", '"$PYTHON" -m ground.cli pull')
        pulled = shell(ADDRESS.sub(served.url, ground), tmp_path)
        assert pulled.returncode == 0, pulled.stderr
        assert (tmp_path / "maps" / row["id"] / "map.tif").is_file()


def test_an_upload_as_it_was_written_before_is_refused(tmp_path: Path) -> None:
    """`curl -T` alone is a PUT: the document says so, and the answer says what there is."""
    write_scene(tmp_path / "scene.tif", 50)
    with running(tmp_path / "service" / "data") as served:
        done = shell(f"curl -s -T scene.tif {served.url}/scenes", tmp_path)
    assert json.loads(done.stdout)["status"] == 405
    assert "sends PUT" in DOC.read_text(encoding="utf-8")


def test_compose_knows_what_the_document_names() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    text = DOC.read_text(encoding="utf-8")
    services = set(re.findall(r"\$COMPOSE (?:run|exec)(?: --rm)?(?: -T)? (\w+)", text))
    assert services == {"jetson", "cpu"} <= set(compose["services"])
    # In the order of the document, each before its service's first command.
    profiles = re.findall(r"--profile (\w+)", text)
    assert [compose["services"][name]["profiles"] for name in ("jetson", "cpu")] == [[name] for name in profiles]
    raw = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    for variable in re.findall(r"^    (\w+)=.*$", text.partition("> docker/.env <<END")[2].partition("END")[0], re.M):
        assert "${" + variable in raw, variable
    for service in compose["services"].values():
        assert service["env_file"] == [{"path": "onboard.env", "required": False}]


def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    if shutil.which("docker") is None or shell("docker compose version", tmp_path).returncode:
        pytest.skip("docker compose is not installed")
    file = str(ROOT / "docker" / "compose.yaml")
    done = shell(f"docker compose -f {file} --profile jetson config --quiet", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", ["jetson.Dockerfile", "x86-gpu.Dockerfile"])
def test_the_build_arguments_it_names_are_those_of_the_dockerfiles(file: str) -> None:
    known = set(re.findall(r"^ARG (\w+)", (ROOT / "docker" / file).read_text(encoding="utf-8"), re.MULTILINE))
    text = DOC.read_text(encoding="utf-8") + OPERATIONS.read_text(encoding="utf-8")
    (block,) = re.findall(rf"docker build -f docker/{re.escape(file)}(?:.*\\\n)*.*", text)
    assert set(re.findall(r"--build-arg (\w+)=", block)) <= known
