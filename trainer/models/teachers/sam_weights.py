"""SAM's image encoder from a transformers folder, from Meta's .pth file, or with random weights.

Meta's file is the state of the whole of SAM under its own names (``image_encoder.blocks.5.attn.rel_pos_h``); the shape
of the encoder is read off the weights. Source of the names: facebookresearch/segment-anything,
``modeling/image_encoder.py``.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import SamVisionConfig, SamVisionModel
from transformers.models.sam.modeling_sam import SamVisionEncoder

from trainer.errors import CheckpointRefused
from trainer.models.teachers.pretrained import load_whole, pretrained
from trainer.models.teachers.settings import SamShape

REMEDY = "give Meta's file as published (sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth, sam_vit_h_4b8939.pth)"

OTHER_PARTS = ("prompt_encoder.", "mask_decoder.", "shared_image_embedding.", "pixel_mean", "pixel_std")

RENAMED = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"layers.\1.layer_norm\2."),
    (r"^blocks\.", "layers."),
    (r"^neck\.0\.", "neck.conv1."),
    (r"^neck\.1\.", "neck.layer_norm1."),
    (r"^neck\.2\.", "neck.conv2."),
    (r"^neck\.3\.", "neck.layer_norm2."),
)
"""Meta's names to those of transformers, the first pattern that fits."""


def encoder_from(path: Path) -> SamVisionEncoder:
    """The encoder at ``path``: a folder saved from SamModel or SamVisionModel, or Meta's .pth file.

    Raises:
        CheckpointRefused: missing, damaged, or not SAM's.
    """
    if path.is_dir():
        return pretrained(path, SamVisionModel, beside=OTHER_PARTS).vision_encoder
    return encoder_from_meta(path)


def encoder_from_meta(path: Path) -> SamVisionEncoder:
    """The encoder in Meta's .pth file, with the prefix ``image_encoder.`` or without.

    Read with ``weights_only``: a file of weights cannot run code here.

    Raises:
        CheckpointRefused: missing, damaged, or its keys or shapes are not SAM's.
    """
    if not path.is_file():
        raise CheckpointRefused(path, "there is no such file", REMEDY)
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text advises to let the file run code
        problem = "is not a readable file of weights: it is no archive of tensors, or holds more than tensors"
        raise CheckpointRefused(path, problem, REMEDY) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointRefused(path, f"is not a readable file of weights: {reason}", REMEDY) from error
    if not isinstance(whole, dict) or not all(isinstance(value, Tensor) for value in whole.values()):
        raise CheckpointRefused(path, "is not one flat table of tensors", REMEDY)
    prefix = "image_encoder."
    state = {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
    state = state or {key: value for key, value in whole.items() if not key.startswith(OTHER_PARTS)}
    encoder = SamVisionEncoder(_config_of(path, state))
    # Every key must find its place: a weight left random would make a teacher that is quietly worse.
    load_whole(path, encoder, {_renamed(key): value.float() for key, value in state.items()}, remedy=REMEDY)
    return encoder


def random_encoder(shape: SamShape) -> SamVisionEncoder:
    """An encoder of random weights, drawn from torch's generator.

    transformers' own initialisation has weights of 1e-10 and zero positions, so that all inputs give equal features;
    here all are drawn with a deviation of 0.02.
    """
    config = SamVisionConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        image_size=shape.image,
        patch_size=shape.patch,
        mlp_dim=int(shape.width * shape.mlp_ratio),
        window_size=shape.window,
        global_attn_indexes=[block - 1 for block in shape.global_blocks],
        initializer_range=0.02,
    )
    encoder = SamVisionEncoder(config)
    for name, parameter in encoder.named_parameters():
        if "pos_embed" in name or "rel_pos" in name:
            nn.init.trunc_normal_(parameter, std=0.02)
    return encoder


def _renamed(key: str) -> str:
    for pattern, replacement in RENAMED:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def _config_of(path: Path, state: Mapping[str, Tensor]) -> SamVisionConfig:
    """The shape of the encoder, from the shapes of its tensors.

    Raises:
        CheckpointRefused: a tensor that defines the shape is missing, or has a shape that SAM cannot have.
    """
    try:
        _, grid, _, width = state["pos_embed"].shape
        patch = state["patch_embed.proj.weight"].shape[-1]
        numbers = [int(match.group(1)) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))]
        depth = max(numbers) + 1
        tables = [state[f"blocks.{number}.attn.rel_pos_h"].shape for number in range(depth)]
        mlp = state["blocks.0.mlp.lin1.weight"].shape[0]
        channels = state["neck.0.weight"].shape[0]
        # A table of relative positions has 2 S - 1 rows, S the side of the window, or of the grid in a global block.
        sides = [(length + 1) // 2 for length, _ in tables]
        # The second size of such a table is the width of one head.
        heads = width // tables[0][1]
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointRefused(path, f"is not a SAM image encoder: {error} is missing or odd", REMEDY) from error
    # A block whose table is as large as the grid attends globally; all others share one window.
    windows = sorted({side for side in sides if side != grid})
    if len(windows) > 1:
        raise CheckpointRefused(path, f"has relative positions for windows of several sides, {windows}", REMEDY)
    return SamVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        image_size=grid * patch,
        patch_size=patch,
        mlp_dim=mlp,
        output_channels=channels,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        window_size=windows[0] if windows else 0,
        global_attn_indexes=[number for number, side in enumerate(sides) if side == grid],
    )
