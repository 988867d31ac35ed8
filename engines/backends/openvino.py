"""The OpenVINO backend on the CPU (optional): FP32, or bfloat16 where the processor has it.

Two names: "openvino" computes in FP32 as the reference does; "openvino-bf16" multiplies in bfloat16 (8 bits of
mantissa) and must reach the manifest's agreement for bf16. The precision is part of the engine's digest, so a scene
begun by one is never continued by the other.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engines.backend import Backend
from engines.cpu import usable_cores
from engines.engine import ClosesOnExit, EngineOptions, Prediction, Tiles, checked_tiles, engine_digest
from engines.errors import BackendUnavailable, InferenceFailed, ModelMismatch, one_line
from engines.heads_graph import graph_of
from engines.loading import load_package
from engines.manifest import Manifest
from engines.outputs import check_sides_are_open, output_ports, prediction_of

BACKEND, BACKEND_BF16 = "openvino", "openvino-bf16"
_HINTS = {"fp32": "f32", "bf16": "bf16"}


def openvino_version() -> str:
    """Version of the installed runtime.

    Raises:
        BackendUnavailable: it is not installed or does not load.
    """
    # The release alone: behind the hyphen stand the build's number and its branch.
    return str(_runtime().__version__).partition("-")[0]


def bf16_version() -> str:
    """The same, where the processor has bfloat16.

    Raises:
        BackendUnavailable: not installed, or the processor has none.
    """
    version = openvino_version()
    try:
        capabilities = _runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except RuntimeError as error:  # the plugin for processors is not whole
        remedy = f"{sys.executable} -m pip install openvino, or take onnxruntime"
        raise BackendUnavailable(BACKEND_BF16, f"it does not load here ({one_line(error)})", remedy) from error
    if "BF16" not in capabilities:
        raise BackendUnavailable(BACKEND_BF16, "this processor has no bfloat16", "take openvino or onnxruntime")
    return version


class OpenVinoEngine(ClosesOnExit):
    """A model on OpenVINO's CPU plugin; keeps the Engine contract.

    Args:
        manifest: of an FP32 model, or of an INT8 one whose pairs it takes as they are.
        folder: with the model's file.
        options: threads and largest batch; idle threads of OpenVINO always sleep.
        precision: "fp32" or "bf16".

    Raises:
        ModelMismatch: the file is not the manifest's, or its inputs and outputs.
        BackendUnavailable: no runtime here, the processor lacks the precision, or it does not take this model.
    """

    def __init__(
        self, manifest: Manifest, folder: Path, options: EngineOptions | None = None, *, precision: str = "fp32"
    ) -> None:
        options = options or EngineOptions()
        self.backend = BACKEND if precision == "fp32" else BACKEND_BF16
        content = graph_of(manifest, folder)
        ov = _runtime()
        # INT8 with a bfloat16 rest would be called int8, and fly by figures that were measured with an FP32 rest.
        if manifest.precision not in ("fp32", "int8") or (manifest.precision, precision) == ("int8", "bf16"):
            remedy = "name the FP32 model, or for openvino the INT8 one"
            raise BackendUnavailable(self.backend, f"the model is {manifest.precision}", remedy)
        if precision == "bf16":
            # Asked first: the precision below is a hint, which a processor without bfloat16 need not follow.
            bf16_version()
        core = ov.Core()
        self.manifest = manifest
        self.folder: Path | None = folder
        self.precision: str = "int8" if manifest.precision == "int8" else precision
        self.max_batch = options.max_batch
        self.threads = options.threads or usable_cores()
        self._outputs = output_ports(manifest)
        # One stream: all threads work on one call, since the pipeline makes one at a time.
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
        }  # fmt: skip
        try:
            model = core.read_model(content)
            _check_ports(model, manifest, folder / manifest.model.file)
            _set_sides(ov, model, manifest)
            self._request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            problem = f"cannot load {folder / manifest.model.file}: {one_line(error)}"
            remedy = "update openvino if the model is newer, or take onnxruntime"
            raise BackendUnavailable(f"{self.backend} {openvino_version()}", problem, remedy) from error
        self.digest = engine_digest(
            model=manifest.model.sha256, backend=self.backend, version=openvino_version(), precision=self.precision
        )

    def infer(self, tiles: Tiles) -> Prediction:
        """See Engine."""
        if self._request is None:
            raise InferenceFailed(self.backend, "the engine is closed", retryable=False)
        tiles = checked_tiles(tiles, self.manifest, max_batch=self.max_batch, sides=self.tile_sides)
        try:
            # The tiles are only read during the call; the results lie in the request's own buffers: copy them out.
            tensors = self._request.infer({self.manifest.input.name: tiles}, share_inputs=True, share_outputs=False)
            arrays = [np.array(tensors[port.name], dtype=port.dtype) for port in self._outputs]
        except RuntimeError as error:
            # OpenVINO's own errors are all RuntimeError: only the text tells that memory was short.
            memory = "alloc" in str(error).lower() or "memory" in str(error).lower()
            raise InferenceFailed(self.backend, one_line(error), retryable=memory) from error
        except MemoryError as error:
            raise InferenceFailed(self.backend, "out of memory", retryable=True) from error
        return prediction_of(self._outputs, arrays)

    @property
    def tile_sides(self) -> tuple[int, ...]:
        """See Engine."""
        return self.manifest.input.sides

    def close(self) -> None:
        """See Engine."""
        self._request = None


def _runtime() -> ModuleType:
    try:
        return load_package("openvino")
    except (ImportError, OSError) as error:
        remedy = f"{sys.executable} -m pip install openvino"
        raise BackendUnavailable(BACKEND, f"it does not load here ({one_line(error)})", remedy) from error


def _set_sides(ov: ModuleType, model: Any, manifest: Manifest) -> None:
    """Gives height and width of the input their bounds, or their one size, where the graph leaves them open."""
    port = model.input(manifest.input.name)
    if not any(side.is_dynamic for side in list(port.partial_shape)[2:]):
        return
    sides = manifest.input.sides
    # With bounds the plugin plans its memory for the largest tile; open sizes that stay fixed need no planning at all.
    side = ov.Dimension(sides[0], sides[-1]) if len(sides) > 1 else ov.Dimension(sides[0])
    model.reshape({port.any_name: ov.PartialShape([*list(port.partial_shape)[:2], side, side])})


def _check_ports(model: Any, manifest: Manifest, path: Path) -> None:
    """Holds the graph's inputs and outputs to the manifest."""
    size, bands = manifest.input.tile_size, len(manifest.input.bands)
    if manifest.input.tile_sides is not None:
        maps = [port for port in [*model.inputs, *model.outputs] if len(list(port.partial_shape)) > 1]
        shapes = {
            port.any_name: tuple(None if side.is_dynamic else side.get_length() for side in port.partial_shape)
            for port in maps
        }
        check_sides_are_open(shapes, manifest, path)
    inputs = {manifest.input.name: ("u8", (bands, size, size))}
    outputs = {port.name: ("u8" if port.dtype == "uint8" else "f32", port.shape) for port in output_ports(manifest)}
    for kind, ports, expected in (("input", model.inputs, inputs), ("output", model.outputs, outputs)):
        by_name = {port.any_name: port for port in ports}
        if set(by_name) != set(expected):
            given, required = ", ".join(sorted(by_name)), ", ".join(sorted(expected))
            raise ModelMismatch(path, f"{kind}s", given=given, required=required)
        for name, (element, shape) in expected.items():
            port = by_name[name]
            rest = list(port.partial_shape)[1:]
            agrees = len(rest) == len(shape) and all(
                side.is_dynamic or side.get_length() == length for side, length in zip(rest, shape, strict=True)
            )
            if port.element_type.get_type_name() != element or not agrees:
                given = f"{port.element_type.get_type_name()} {port.partial_shape}"
                required = f"{element} [{', '.join(('N', *map(str, shape)))}]"
                raise ModelMismatch(path, f"{kind} {name}", given=given, required=required)


OPENVINO = Backend(BACKEND, openvino_version, OpenVinoEngine, weights_in_process=True)
OPENVINO_BF16 = Backend(
    BACKEND_BF16, bf16_version, partial(OpenVinoEngine, precision="bf16"), precision="bf16", weights_in_process=True
)
