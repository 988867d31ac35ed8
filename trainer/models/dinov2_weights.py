"""DINOv2's published weights in a plain ViT of this project, as the encoder that a teacher begins with.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024; weights Apache 2.0.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Model

from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.models.stem import LinearStem
from trainer.models.student import Student
from trainer.models.teachers.pretrained import pretrained
from trainer.training.checkpoint import load_part

WEIGHTS = "model.safetensors"
_ONE_FILE = "save it again in one: save_pretrained(folder, max_shard_size='50GB')"
_SHAPE = "set model.student to the shape of the weights: width, depth, heads, patch, positions"
_BLOCK = {
    "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.0", "attention.attention.query": "attention.q",
}  # fmt: skip


def load_dinov2(student: Student, folder: Path) -> None:
    """Loads the weights in ``folder``, as transformers saves them.

    The class token is left out: it took part in attention, so features differ a little before anything is learnt. The
    scale of each layer is multiplied into its weights. Perceptrons must be plain (not SwiGLU, as ViT-g has them).

    Raises:
        SettingsRefused: the encoder has a convolutional stem, windows or pooled keys, which DINOv2 has not.
        CheckpointRefused: the folder is not readable, or of another shape.
    """
    settings = student.settings
    if not isinstance(student.stem, LinearStem) or settings.window is not None or settings.kv_pool != 1:
        raise SettingsRefused("model.student", "weights of DINOv2 go into `stem: linear` with `window: null` alone")
    config = pretrained(folder, Dinov2Model).config  # refuses what is no whole backbone
    if config.use_swiglu_ffn:
        raise CheckpointRefused(folder, "its perceptrons are SwiGLU, of ViT-g", "take ViT-S, ViT-B or ViT-L")
    if not config.qkv_bias or config.hidden_act != "gelu":
        # The activation is not seen in the weights: another one would give other features in silence.
        raise CheckpointRefused(
            folder, f"its attention has no biases, or its perceptrons {config.hidden_act}: no published DINOv2 is so",
            "take weights of DINOv2, with `qkv_bias: true` and `hidden_act: gelu` in config.json",
        )  # fmt: skip
    if (config.num_attention_heads, config.num_hidden_layers) != (settings.heads, settings.depth):
        # Heads are not seen in the weights' shapes, and other ones would give other features in silence.
        raise CheckpointRefused(
            folder, f"it has {config.num_hidden_layers} blocks of {config.num_attention_heads} heads, the encoder here "
            f"{settings.depth} of {settings.heads}", _SHAPE,
        )  # fmt: skip
    if not (folder / WEIGHTS).is_file():
        raise CheckpointRefused(folder, f"its weights lie in several files, not in {WEIGHTS}", _ONE_FILE)
    # From the file: the names inside of the model differ between releases of transformers.
    load_part(student, _renamed(load_file(folder / WEIGHTS), student), "student.", folder)


def _renamed(theirs: dict[str, Tensor], student: Student) -> dict[str, Tensor]:
    """Their tensors under the names of checkpoints here."""
    embeddings = "embeddings.patch_embeddings.projection."
    table = theirs["embeddings.position_embeddings"][0, 1:]  # the first is the class token's
    side = math.isqrt(len(table))
    own = {
        "positions": table.T.reshape(1, -1, side, side),
        **{f"norm.{part}": theirs[f"layernorm.{part}"] for part in ("weight", "bias")},
        **{
            f"{name}.{part}": theirs[embeddings + part]
            for name, module in student.named_modules() if isinstance(module, torch.nn.Conv2d)
            for part in ("weight", "bias")
        },
    }  # fmt: skip
    for number in range(student.settings.depth):
        layer, block = f"encoder.layer.{number}.", f"blocks.{number}."
        for part in ("weight", "bias"):
            for there, here in _BLOCK.items():
                own[f"{block}{here}.{part}"] = theirs[f"{layer}{there}.{part}"]
            key, value = (theirs[f"{layer}attention.attention.{name}.{part}"] for name in ("key", "value"))
            own[f"{block}attention.kv.{part}"] = torch.cat([key, value])
            for there, here, scale in (
                ("attention.output.dense", "attention.out", "layer_scale1"), ("mlp.fc2", "mlp.2", "layer_scale2"),
            ):  # fmt: skip
                factor = theirs[f"{layer}{scale}.lambda1"]
                tensor = theirs[f"{layer}{there}.{part}"]
                own[f"{block}{here}.{part}"] = tensor * (factor[:, None] if part == "weight" else factor)
    return {f"student.{name}": tensor.contiguous() for name, tensor in own.items()}
