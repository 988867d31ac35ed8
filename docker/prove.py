"""Executes docker/cpu.Dockerfile without Docker: each step in order in clean Debian roots, to a map at the end.

    sudo python3 docker/prove.py [--work FOLDER]      (root, debootstrap, and the package registries)
    python3 docker/prove.py --resolve                 (only: the board's pinned packages exist for it)

A stage's base is made by debootstrap, RUN runs in a chroot, COPY copies what .dockerignore lets through, USER, ENV and
WORKDIR hold as in Docker. Then the last stage's command is started as its user in its root, a scene is posted to it,
and its map fetched. What this cannot show: the daemon's own doings (layers, health scheduling, cgroups, capabilities),
and the other two files, whose steps differ in the base, PyCUDA and TensorRT.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# What the host needs to reach its registries goes along; nothing of it is kept in the image.
PASSED = re.compile(r"^(https?_proxy|no_proxy|PIP_DEFAULT_TIMEOUT)$", re.IGNORECASE)
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass
class Stage:
    """One FROM and what follows it."""

    base: str
    name: str
    steps: list[tuple[str, str]]
    root: Path = Path()
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def stages_of(dockerfile: Path) -> list[Stage]:
    """Instructions by stage, continuation lines joined, comments left out, ARG BASE filled in."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "ARG" and not found:
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word == "FROM":
            base, _, name = re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], rest).partition(" AS ")
            found.append(Stage(base, name, []))
        else:
            found[-1].steps.append((word, rest.strip()))
    return found


def main() -> int:
    """Runs everything; 0 if a map came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the roots (1.5 GB), kept; without: a temporary one")
    parser.add_argument("--resolve", action="store_true", help="only resolve the pinned packages for the boards")
    options = parser.parse_args()
    if options.resolve:
        return resolve()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        print("prove: needs root and debootstrap (apt-get install debootstrap)", file=sys.stderr)
        return 2
    if options.work is None:
        with tempfile.TemporaryDirectory(prefix="prove-") as work:
            return prove(Path(work))
    options.work.mkdir(parents=True, exist_ok=True)
    return prove(options.work)


def resolve() -> int:
    """Asks pip for the pinned sets as the boards would: wheels only, by hash, nothing installed."""
    sets = [("gpu.txt", "3.10", "aarch64"), ("gpu.txt", "3.12", "aarch64"), ("cpu.txt", "3.11", "aarch64")]
    for name, python, machine in sets:
        platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (17, 26, 27, 28, 31, 34, 35)]
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--require-hashes",
            "--only-binary=:all:", "--target", "/nonexistent", f"--python-version={python}",
            f"--platform=manylinux2014_{machine}", *platforms, "-r", str(HERE / "requirements" / name),
        ]  # fmt: skip
        done = subprocess.run(command, check=False)
        print(f"{name} for Python {python} on {machine}: {'resolves' if done.returncode == 0 else 'DOES NOT RESOLVE'}")
        if done.returncode:
            return 1
    return 0


def prove(work: Path) -> int:
    """Builds every stage below ``work`` and uses the last."""
    base = work / "base"
    if not (base / "etc").is_dir():
        say("debootstrap bookworm")
        part = work / "base.part"
        shutil.rmtree(part, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", "bookworm", str(part)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        part.rename(base)
    stages = stages_of(HERE / "cpu.Dockerfile")
    built: dict[str, Stage] = {}
    for stage in stages:
        if not stage.base.startswith("debian:bookworm"):
            raise SystemExit(f"prove: {stage.base} cannot be made by debootstrap here")
        stage.root = work / stage.name
        shutil.rmtree(stage.root, ignore_errors=True)
        subprocess.run(["cp", "-a", str(base), str(stage.root)], check=True)
        for word, rest in stage.steps:
            say(f"{stage.name}: {word} {rest[:100]}")
            step(stage, word, rest, built)
        built[stage.name] = stage
    return use(stages[-1], work)


def step(stage: Stage, word: str, rest: str, built: dict[str, Stage]) -> None:
    """One instruction."""
    if word == "RUN":
        in_root(stage, ["/bin/sh", "-c", rest], user=stage.user)
    elif word == "COPY":
        copy(stage, rest, built)
    elif word == "ENV":
        for item in shlex.split(rest):
            name, _, value = item.partition("=")
            stage.environment[name] = value.replace("$PATH", stage.environment.get("PATH", USUAL_PATH))
    elif word == "USER":
        stage.user = rest
    elif word == "WORKDIR":
        stage.folder = rest
        (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif word == "ENTRYPOINT":
        stage.entrypoint = json.loads(rest)
    elif word == "CMD":
        stage.command = json.loads(rest)
    elif word not in ("LABEL", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"):
        raise SystemExit(f"prove: does not know {word}")


USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def in_root(stage: Stage, command: list[str], *, user: str) -> None:
    """Runs a command in a stage's root."""
    environment = {"PATH": USUAL_PATH, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **stage.environment}
    environment |= {name: value for name, value in os.environ.items() if PASSED.match(name)}
    if CERTIFICATES.exists():  # the host's authorities, one of which may be its own
        shutil.copy(CERTIFICATES, stage.root / "run/host.crt")
        environment |= {"PIP_CERT": "/run/host.crt", "SSL_CERT_FILE": "/run/host.crt"}
    shutil.copy("/etc/resolv.conf", stage.root / "etc/resolv.conf")
    there = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', stage.folder]
    call = ["chroot", f"--userspec={user}", str(stage.root), *there, *command]
    subprocess.run(call, check=True, env=environment, stdout=subprocess.DEVNULL)


def copy(stage: Stage, rest: str, built: dict[str, Stage]) -> None:
    """COPY [--from=STAGE] SOURCES TARGET; from the checkout, what git has or would take."""
    words = shlex.split(rest)
    source = ROOT
    if words[0].startswith("--from="):
        source = built[words.pop(0).removeprefix("--from=")].root
    *names, target = words
    for name in names:
        given, into = source / name.lstrip("/"), stage.root / target.lstrip("/")
        if target.endswith("/"):
            into = into / given.name
        into.parent.mkdir(parents=True, exist_ok=True)
        if source != ROOT:
            subprocess.run(["cp", "-a", "-T", str(given), str(into)], check=True)
            continue
        listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "--", name]
        for path in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.splitlines():
            file = into if given.is_file() else into / Path(path).relative_to(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, file)


def use(stage: Stage, work: Path) -> int:
    """Starts the last stage's command as its user, posts a scene, fetches the map, stops it."""
    scene = work / "scene.tif"
    command = [sys.executable, "-m", "trainer.data.landscape", "--size", "2048", "--seed", "7", "--out", str(scene)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    compilers = [name for name in ("gcc", "cc", "g++", "pip") if (stage.root / "usr/bin" / name).exists()]
    say(f"last stage: {size_of(stage.root)} MB beside the base's; build tools in it: {compilers or 'none'}")
    for folder in ("proc", "sys", "dev"):
        subprocess.run(["mount", "--rbind", f"/{folder}", str(stage.root / folder)], check=True)
    server = None
    try:
        environment = {"PATH": USUAL_PATH, "HOME": "/data", **stage.environment}
        call = ["chroot", f"--userspec={stage.user}", str(stage.root), *stage.entrypoint]
        roles = [word for role in ("ingest", "ground", "telemetry") for word in ("--role", role)]
        added = subprocess.run(
            [*call, "token", "add", "prove", *roles],
            check=True,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        token = next(word for line in added.stdout.splitlines() for word in line.split() if len(word) > 20)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment["ONBOARD_PORT"] = str(free.getsockname()[1])
        server = subprocess.Popen([*call, *stage.command], env=environment)
        say(fetch_map(f"http://127.0.0.1:{environment['ONBOARD_PORT']}", token, scene, server))
        alive = subprocess.run([*call[:3], "python3", "-m", "onboard.alive"], check=False, env=environment)
        say(f"healthcheck in the root: exit {alive.returncode}")
        server.terminate()
        say(f"stopped by SIGTERM: exit {server.wait(60)}")
        return alive.returncode or abs(server.returncode)
    finally:
        if server is not None and server.poll() is None:
            server.kill()
            server.wait()
        for folder in ("dev", "sys", "proc"):
            subprocess.run(["umount", "-R", "-l", str(stage.root / folder)], check=False)


def fetch_map(url: str, token: str, scene: Path, server: subprocess.Popen[bytes]) -> str:
    """Posts the scene, waits for its map, and says what came."""

    def ask(path: str, data: bytes | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/tiff"}
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=60) as answer:
            return bytes(answer.read())

    deadline = time.monotonic() + 300
    while True:
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"prove: the service did not answer (exit {server.poll()})")
        try:
            ask("/health/live")
            break
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    posted = json.loads(ask("/scenes", scene.read_bytes()))
    while True:
        told = json.loads(ask(f"/scenes/{posted['id']}"))
        if told["state"] == "mapped":
            break
        if told["state"] in ("quarantined", "failed", "cancelled") or time.monotonic() > deadline:
            raise SystemExit(f"prove: no map: {told}")
        time.sleep(0.2)
    content = ask(f"/maps/{posted['id']}/map.tif")
    return f"posted {scene.stat().st_size} bytes, {told['state']}, fetched a map of {len(content)} bytes"


def size_of(root: Path) -> int:
    """Megabytes below /opt/onboard."""
    return sum(file.lstat().st_size for file in (root / "opt/onboard").rglob("*")) // 1_000_000


def say(text: str) -> None:
    """One line of progress."""
    print(f"prove: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
