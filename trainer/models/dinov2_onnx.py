"""DINOv2's weights out of an ONNX file, for places that no hub of models reaches but package registries do.

PyTorch's exporter keeps the names of biases and norms, and gives matrices numbers in their place: those are found by
the name of the node that multiplies by them.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from trainer.errors import CheckpointRefused
from trainer.models.dinov2_weights import WEIGHTS
from trainer.models.teachers.pretrained import pretrained

REMEDY: Final = "give an ONNX file that PyTorch exported from transformers' Dinov2Model, alone or with a head"
HEAD_WIDTH: Final = 64
"""Channels of an attention head, in every published DINOv2."""
_LAYER = re.compile(r"layer[./](\d+)")
_KEPT = re.compile(r"(embeddings\.(cls_token|patch_embeddings.*)|encoder\.layer\..*|layernorm\.(weight|bias))$")
# Inside of the model newer releases of transformers have short names; files keep the first ones.
_SHORT = {
    "attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense",
}  # fmt: skip
_MATRICES = (*_SHORT, *_SHORT.values(), "mlp.fc1", "mlp.fc2")


def folder_from_onnx(path: Path, out: Path) -> Dinov2Config:
    """Writes the backbone in an ONNX file as transformers saves it; returns its settings.

    Raises:
        CheckpointRefused: not readable, or not such a backbone; or something lies at ``out``.
    """
    if out.exists():
        raise CheckpointRefused(out, "exists already", "give a new folder with --out")
    try:
        graph = onnx.load(path).graph
    except Exception as error:
        # protobuf and onnx raise several kinds
        raise CheckpointRefused(path, f"cannot be read: {error}", REMEDY) from error
    tensors = {item.name: item for item in graph.initializer}
    found = {kept: _tensor(item) for name, item in tensors.items() if (kept := _plain(name))}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors and (name := _matrix(node.name)):
            found[name] = _tensor(tensors[node.input[1]]).T.contiguous()
    try:
        width = len(found["embeddings.patch_embeddings.projection.weight"])
        found["embeddings.position_embeddings"] = _positions(path, tensors.values(), width)
        config = _config(found)
    except KeyError as error:
        raise CheckpointRefused(path, f"holds no {error}", REMEDY) from error
    # Hides patches in DINOv2's own training; no graph that infers has it.
    found["embeddings.mask_token"] = torch.zeros(1, width)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as made:
        folder = Path(made) / out.name
        folder.mkdir()
        # Under the names of published files. Those inside of the model differ between releases of transformers.
        save_file(found, folder / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(folder)
        try:
            # transformers knows what a backbone of these settings has.
            pretrained(folder, Dinov2Model)
        except CheckpointRefused as error:
            raise CheckpointRefused(path, error.problem, REMEDY) from error
        folder.rename(out)
    return config


def _tensor(item: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(item), dtype=np.float32))


def _plain(name: str) -> str | None:
    """Name in published files of a tensor that kept its own; None for all others."""
    match = _KEPT.search(name)
    return None if match is None else _published(match[0])


def _matrix(node: str) -> str | None:
    """Name in published files of the matrix that a node multiplies by; None where it is of something else."""
    layer, path = _LAYER.search(node), node.replace("/", ".")
    end = next((part for part in _MATRICES if path.endswith(f".{part}.MatMul")), None)
    return _published(f"encoder.layer.{layer[1]}.{end}.weight") if layer and end else None


def _published(name: str) -> str:
    for short, long in _SHORT.items():
        name = name.replace(f".{short}.", f".{long}.")
    return name


def _positions(path: Path, tensors: Iterable[onnx.TensorProto], width: int) -> Tensor:
    """The table of positions, which the exporter cuts in two: that of the class token, and the square of the others."""
    rows = [
        _tensor(item) for item in tensors if len(item.dims) == 3 and item.dims[2] == width and not _plain(item.name)
    ]
    first = [table for table in rows if table.shape[1] == 1]
    others = [table for table in rows if table.shape[1] > 1 and math.isqrt(table.shape[1]) ** 2 == table.shape[1]]
    if len(first) != 1 or len(others) != 1:
        raise CheckpointRefused(path, "holds no table of positions that can be told from its other tensors", REMEDY)
    return torch.cat([first[0], others[0]], dim=1)


def _config(found: Mapping[str, Tensor]) -> Dinov2Config:
    patches, table = found["embeddings.patch_embeddings.projection.weight"], found["embeddings.position_embeddings"]
    width, patch = patches.shape[0], patches.shape[-1]
    return Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len({match[1] for name in found if (match := _LAYER.search(name))}),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=math.isqrt(table.shape[1] - 1) * patch,
        patch_size=patch,
        mlp_ratio=found["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
    )
