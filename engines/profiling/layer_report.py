"""Where a graph's operations, bytes and expected time on an Orin go: tables for people, facts for programs.

An expectation, by engines/profiling/roofline.py, of kernels as TensorRT is expected to fuse them: not a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.errors import EngineError
from engines.heads_graph import graph_of
from engines.manifest import Manifest
from engines.open import manifest_path
from engines.profiling.layers import Kind, Layer, layers_of_bytes, layers_of_file
from engines.profiling.roofline import DEVICES, Rates

MODE = DEVICES[0]
"""What tables are of: Orin NX 16 GB at 25 W, the usual budget aboard."""


def named_layers(model: str | Path | None) -> tuple[str, tuple[Layer, ...]]:
    """Name and layers of a shipped model, a model folder, or an .onnx file by itself.

    Raises:
        OpeningRefused: there is no such model, its sizes are open, or the onnx package is not installed.
    """
    if model is not None and Path(model).suffix == ".onnx":
        return Path(model).name, layers_of_file(Path(model))
    file = manifest_path(model)
    manifest = Manifest.load(file)
    size, bands = manifest.input.tile_size, len(manifest.input.bands)
    # A model with heads has no file with its whole graph: the parts are joined in memory.
    if manifest.head_names:
        layers = layers_of_bytes(graph_of(manifest, file.parent), file, shape=(1, bands, size, size))
    else:
        layers = layers_of_file(file.parent / manifest.model.file, shape=(1, bands, size, size))
    return f"{manifest.name} {manifest.version}", layers


def layers_or_problem(model: str | Path | None) -> tuple[tuple[Layer, ...], str]:
    """The layers, or none and why they cannot be counted: bounds are worth having without them."""
    try:
        return named_layers(model)[1], ""
    except EngineError as error:
        return (), str(error)


@dataclass(frozen=True)
class LayerReport:
    """Layers of one model, expected on Orin NX."""

    model: str
    layers: tuple[Layer, ...]

    def facts(self) -> dict[str, Any]:
        """For programs: sums, rates by device, and every layer with its seconds at 25 W."""
        rows = [asdict(layer) | {"seconds": seconds} for layer, seconds in self._timed()]
        return {
            "model": self.model,
            "flops": sum(layer.flops for layer in self.layers),
            "bytes_moved": sum(layer.bytes_moved for layer in self.layers),
            "expected": [
                {"device": name, "tiles_per_s": expected, "cautious_tiles_per_s": cautious}
                for name, expected, cautious in self._rates()
            ],
            "seconds_on": MODE.name,
            "layers": rows,
        }

    def table(self, slowest: int = 20) -> str:
        """For people: expectations, sums by kind, and the slowest layers."""
        return "\n".join([*self._head(), "", *self._kinds(), "", *self._slowest(slowest)])

    def short_table(self, slowest: int = 8) -> str:
        """The slowest layers alone."""
        title = f"{self.model}, {MODE.name}: slowest layers, expected, not measured"
        return "\n".join([title, *self._slowest(slowest)])

    def _rates(self) -> list[tuple[str, float, float]]:
        orins = [(rates.name, rates.orin) for rates in DEVICES if rates.orin is not None]
        return [(name, orin.tiles_per_s(self.layers), orin.cautious_tiles_per_s(self.layers)) for name, orin in orins]

    def _timed(self) -> list[tuple[Layer, float]]:
        return [(layer, _seconds(MODE, layer)) for layer in self.layers]

    def _head(self) -> list[str]:
        flops, moved = (sum(getattr(layer, name) for layer in self.layers) for name in ("flops", "bytes_moved"))
        lines = [
            f"{self.model}: {flops / 1e9:.1f} GFLOP, {moved / 1e6:.0f} MB moved (real numbers at FP16), "
            f"{len(self.layers)} kernels",
            "expected, not measured; the second number if all layers follow the GPU's clock, memory-bound ones too",
        ]
        for name, expected, cautious in self._rates():
            lines.append(f"  {name:<32}{expected:8.1f} tiles/s {cautious:8.1f}")
        return lines

    def _kinds(self) -> list[str]:
        timed = self._timed()
        whole = sum(seconds for _, seconds in timed)
        lines = [f"by kind, {MODE.name}", f"  {'kind':<10}{'kernels':>8}{'GFLOP':>9}{'MB':>9}{'ms':>9}{'share':>8}"]
        kinds: Sequence[Kind] = ("dense", "thin", "pointwise", "depthwise", "matmul", "memory")
        for kind in kinds:
            own = [(layer, seconds) for layer, seconds in timed if layer.kind == kind]
            if not own:
                continue
            took = sum(seconds for _, seconds in own)
            lines.append(
                f"  {kind:<10}{len(own):>8}{sum(layer.flops for layer, _ in own) / 1e9:>9.2f}"
                f"{sum(layer.bytes_moved for layer, _ in own) / 1e6:>9.1f}{1e3 * took:>9.2f}{took / whole:>8.1%}"
            )
        return lines

    def _slowest(self, number: int) -> list[str]:
        timed = sorted(self._timed(), key=lambda row: -row[1])[:number]
        whole = sum(seconds for _, seconds in self._timed())
        lines = [f"  {'ms':>7}{'share':>7}{'GFLOP':>8}{'MB':>8}  {'kind':<15}{'writes':<19}operators, name"]
        for layer, seconds in timed:
            shape = "x".join(str(side) for side in layer.shape[1:] or layer.shape)
            kind = f"{layer.kind}{' int8' if layer.int8 else ''}"
            lines.append(
                f"  {1e3 * seconds:>7.3f}{seconds / whole:>7.1%}{layer.flops / 1e9:>8.2f}"
                f"{layer.bytes_moved / 1e6:>8.1f}  {kind:<15}{shape:<19}{_cut(layer.operators, 32)} "
                f"{_cut(layer.name, 60, tail=True)}"
            )
        return lines


def _seconds(rates: Rates, layer: Layer) -> float:
    return 0.0 if rates.orin is None else rates.orin.seconds(layer)


def _cut(text: str, length: int, *, tail: bool = False) -> str:
    if len(text) <= length:
        return text
    # The end of a node's name tells it from others; many begin with the same modules.
    return f"..{text[2 - length :]}" if tail else f"{text[: length - 2]}.."
