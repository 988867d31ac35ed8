"""The files of a built engine: its name, the batch profile in it, and the JSON beside it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from engines.errors import EngineDamaged, EngineElsewhere, SettingRefused
from engines.manifest import Manifest
from engines.manifest_fields import os_reason
from engines.tensorrt.runtime import Device, Runtime

SUFFIX = ".engine"
_SHIPPED = Path(__file__).resolve().parents[1] / "shipped"


@dataclass(frozen=True)
class Batches:
    """Batch sizes of the optimisation profile: minimum, usual (the engine is tuned for it), maximum.

    The minimum is 1: the golden tile is run alone, and so may be the last tile of a scene.
    """

    least: int = 1
    usual: int = 1
    most: int = 8

    def __post_init__(self) -> None:
        if not 1 == self.least <= self.usual <= self.most:
            given = f"{self.least},{self.usual},{self.most}"
            raise SettingRefused("batches", given, "1, usual and most, in order: the last tile of a scene comes alone")


@dataclass(frozen=True)
class BuiltEngine:
    """Contents of the JSON file beside an engine.

    Attributes:
        model: name and version; ``model_sha256`` of the ONNX file.
        precision: of the ONNX file.
        runtime, runtime_version: package that built it and the only one that runs it.
        device: it runs on.
        batches: (least, usual, most).
        workspace_bytes: most scratch memory while building.
        bytes, sha256: of the engine's file.
        seconds: the build took.
        layers: of the network.
    """

    model: str
    model_sha256: str
    precision: str
    runtime: str
    runtime_version: str
    device: Device
    batches: tuple[int, int, int]
    workspace_bytes: int
    bytes: int
    sha256: str
    seconds: float
    layers: int

    @classmethod
    def load(cls, path: Path) -> BuiltEngine:
        """Reads the JSON file beside the engine `path`.

        Raises:
            EngineDamaged: it is missing, or not such a file.
        """
        try:
            facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            return cls(**{**facts, "device": Device(**facts["device"]), "batches": tuple(facts["batches"])})
        # Missing, cut off or of another version: the remedy is the same, to build it again.
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise EngineDamaged(path, f"its facts cannot be read ({error})") from error

    def check(self, path: Path, manifest: Manifest, folder: Path, runtime: Runtime, device: Device) -> None:
        """Passes if the engine was built from the model in ``folder``, for this device and TensorRT, and is unchanged.

        Raises:
            EngineElsewhere: it was not; the message has the command that builds the right one.
            EngineDamaged: the SHA-256 of its bytes is not the recorded one.
        """
        wanted = {
            "model": (self.model_sha256[:12], manifest.model.sha256[:12]),
            "precision": (self.precision, str(manifest.precision)),
            "TensorRT": (f"{self.runtime} {self.runtime_version}", f"{runtime.name} {runtime.version}"),
            "compute capability": (self.device.capability, device.capability),
            "Jetson Linux": (self.device.l4t or "none", device.l4t or "none"),
        }
        # An engine that was built for an architecture runs on every GPU of it.
        if self.device.name != "any":
            wanted["GPU"] = (self.device.name, device.name)
        differences = [
            f"its {name} is {built}, here it is {here}" for name, (built, here) in wanted.items() if built != here
        ]
        if differences:
            raise EngineElsewhere(path, differences, build_command(manifest, folder, path.parent))
        # Last: an engine from elsewhere is refused as such, whether or not its bytes are whole.
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise EngineDamaged(path, f"it is {os_reason(error)}") from error
        if digest != self.sha256:
            raise EngineDamaged(path, f"its SHA-256 is {digest[:12]}, {self.sha256[:12]} was built")


def build_command(manifest: Manifest, folder: Path, out: Path) -> str:
    """The command that builds the engine of a model in ``folder``, with the heads that are opened, into ``out``."""
    # A model that came up the link is no shipped one: only its folder names it.
    model = manifest.name if folder.resolve().parent == _SHIPPED else folder
    heads = ",".join(head.name for head in manifest.opened_heads)
    return f"engines build {model}{' --heads ' + heads if heads else ''} --out {out}"


def engine_name(manifest: Manifest, runtime: Runtime, device: Device, batches: Batches) -> str:
    """File name of an engine: model, precision, device, TensorRT version and batch sizes."""
    parts = (
        manifest.name, manifest.model.sha256[:12], manifest.precision, device.slug, f"{runtime.name}{runtime.version}",
        f"b{batches.least}.{batches.usual}.{batches.most}",
    )  # fmt: skip
    return "_".join(str(part) for part in parts) + SUFFIX
