"""The shipped model with class probabilities as output, for tools that blend tiles; cut from its ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from engines.manifest import Manifest

Probabilities = NDArray[np.float32]


def write_twin(model: Path, path: Path) -> Path:
    """Writes the model without its last step: uint8 tiles (N, bands, S, S) in, probabilities float32 (N, K, S, S) out.

    What ArgMax chose from goes through a softmax instead, in pixels by the same nearest neighbour; so the likeliest
    class of the twin is the class of the model, at every pixel.

    Raises:
        ValueError: the file has no single ArgMax with a Resize behind it.
    """
    whole = onnx.load(str(model))
    graph = whole.graph
    choices = [node for node in graph.node if node.op_type == "ArgMax"]
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    if len(choices) != 1 or not resizes:
        raise ValueError(
            f"{model} has {len(choices)} ArgMax and {len(resizes)} Resize; a twin is cut where there is one"
        )
    # The last one: it turns cells of classes into pixels, and its attributes make the twin do the same.
    last = resizes[-1]
    constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    scales = onnx.numpy_helper.to_array(constants[last.input[2]].attribute[0].t)
    graph.initializer.append(onnx.numpy_helper.from_array(scales.astype(np.float32), "twin_scales"))
    graph.node.append(helper.make_node("Softmax", [choices[0].input[0]], ["twin_cells"], axis=1))
    resized = helper.make_node("Resize", ["twin_cells", "", "twin_scales"], ["probabilities"])
    resized.attribute.extend(last.attribute)
    graph.node.append(resized)
    size = graph.input[0].type.tensor_type.shape.dim[2].dim_value
    # Only what leads to the new output is extracted: the ArgMax goes, and what comes after it.
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", None, size, size]))
    path.parent.mkdir(parents=True, exist_ok=True)
    extractor = onnx.utils.Extractor(whole)
    onnx.save(extractor.extract_model([graph.input[0].name], ["probabilities"]), str(path))
    return path


class Twin:
    """The twin in ONNX Runtime.

    Attributes:
        size: S, pixels a side.
        classes: K.
        halo: pixels that the model that flies has cut from tile edges.
    """

    def __init__(self, folder: Path, model: Path, threads: int) -> None:
        manifest = Manifest.load(model)
        path = folder / f"{manifest.name}-{manifest.model.sha256[:12]}-twin.onnx"
        if not path.exists():
            # Renamed when it is whole: a later run takes what has this name.
            part = write_twin(model / manifest.model.file, path.with_suffix(".part"))
            part.rename(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.size, self.halo, self.classes = manifest.input.tile_size, manifest.halo, len(manifest.classes)
        self.manifest = manifest

    def __call__(self, tiles: NDArray[np.uint8]) -> Probabilities:
        """Probabilities (N, K, S, S) of tiles (N, bands, S, S)."""
        probabilities: Probabilities = self._session.run(None, {self._input: tiles})[0]
        return probabilities
