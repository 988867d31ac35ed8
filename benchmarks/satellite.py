"""A satellite that takes models, and a station with keys: a real service on loopback, for benchmarks of the uplink."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.serving import service
from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.manifest import HeadsManifest, Manifest, ManifestWithHeads, ModelFile
from engines.verify import read_golden_tile, write_answer

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
VERIFIED_S = 900.0
"""Longest wait for a verification."""


@dataclass(frozen=True)
class Station:
    """Keys and models on the ground.

    Attributes:
        folder: of keys, and of the cache of differences.
    """

    folder: Path

    @classmethod
    def new(cls, folder: Path) -> Station:
        """With new keys."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        station = cls(folder)
        station._ground("keys", str(station.keys))
        return station

    @property
    def keys(self) -> Path:
        """Folder of keys."""
        return self.folder / "keys"

    def sign(self, model: Path) -> None:
        """Puts a model on the list."""
        self._ground("sign", str(model), "--keys", str(self.keys))

    def push(self, model: Path, url: str, *options: str) -> dict[str, Any]:
        """Sends a model up; the report of `ground model push --json`."""
        text = self._ground("push", str(model), url, "--keys", str(self.keys), "--json", "--wait", "0.1s", *options)
        report: dict[str, Any] = json.loads(text)
        return report

    def _ground(self, *words: str) -> str:
        command = [sys.executable, "-m", "ground.cli", "model", *words]
        # A cache of its own: differences that an earlier run made would take no time, and uplink looks at their names.
        environment = os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache")}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout


@contextlib.contextmanager
def satellite(data: Path, model: Path, station: Station, **settings: str) -> Iterator[httpx.Client]:
    """A service of its own that flies a model; gives a client."""
    flown = {"ONBOARD_MODEL": str(model.resolve()), "ONBOARD_TRUST_ROOT": str(station.keys / "root.json")}
    # The limit of requests is for strangers; a benchmark asks tens of times a second.
    with service(data, **(flown | {"ONBOARD_MAX_REQUESTS_PER_S": "1000000"} | settings)) as (client, _):
        yield client


def wait_until_verified(client: httpx.Client, digest: str) -> dict[str, Any]:
    """The model's row once it is verified.

    Raises:
        RuntimeError: it was refused, or its verification does not end.
    """
    end = time.monotonic() + VERIFIED_S
    while time.monotonic() < end:
        models = client.get("/models").json()["models"]
        row: dict[str, Any] = next(model for model in models if model["digest"] == digest)
        if row["state"] == "verified":
            return row
        if row["state"] == "refused":
            raise RuntimeError(row["reason"])
        time.sleep(0.2)
    raise RuntimeError("its verification does not end")


def retrained(model: Path, head: str, out: Path, *, version: str, noise: float, seed: int = 0) -> Path:
    """A model whose head has other weights: noise of this share of each tensor's deviation stands for a training."""
    before = Manifest.load(model)
    if not isinstance(before, ManifestWithHeads):
        raise TypeError(f"{model} has no heads")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(model, out)
    path = out / f"{head}.onnx"
    _disturb(path, noise, np.random.default_rng(seed))
    changed = _with_head(before.source, head, {"model": ModelFile.of(path)}, version)
    view = ManifestWithHeads.of(changed, [head])
    with OnnxRuntimeEngine(view, out) as engine:
        # The golden answer is recorded anew: by the old one the satellite would refuse the model.
        classes = engine.infer(read_golden_tile(view, out)).classes[0]
    answer = write_answer(out, head, classes, dict(view.opened_heads[0].golden.least_agreement))
    ManifestWithHeads.of(_with_head(changed, head, {"golden": answer}, version)).save(out)
    return out


def _with_head(source: HeadsManifest, name: str, changes: dict[str, Any], version: str) -> HeadsManifest:
    heads = tuple(head.model_copy(update=changes) if head.name == name else head for head in source.heads)
    return source.model_copy(update={"heads": heads, "version": version})


def _disturb(path: Path, noise: float, rng: np.random.Generator) -> None:
    graph = onnx.load(path)
    # Weights of layers alone: shapes, axes and scales are constants too, and must stay.
    weights = {name for node in graph.graph.node if node.op_type in _LAYERS for name in node.input[1:]}
    for constant in graph.graph.initializer:
        if constant.name in weights:
            values = numpy_helper.to_array(constant)
            # By each tensor's own deviation, since layers differ in scale.
            changed = values + rng.normal(0, 1, values.shape) * noise * float(values.std())
            constant.CopyFrom(numpy_helper.from_array(changed.astype(values.dtype), constant.name))
    path.write_bytes(graph.SerializeToString())
