"""Cost of a network: parameters, FLOPs, activation memory and bytes moved, by named counters.

A network is built on the meta device, where a tensor has a shape and no values, so that the largest takes a second.
Two counters, and every printed figure names its own:

- ``multiply_adds``: convolutions and linear layers, one for a multiplication with its addition. What tools that count
  by module give, since no module holds attention's products; the published 119.76 G of Shu et al. 2026 is this one.
- ``flops``: whole, two for a multiplication with its addition, products of attention and the means of the pyramid
  included. What torch.utils.flop_counter.FlopCounterMode counts.

Norms, activations, resizes and sums are in neither: about 0.15 % of the paper's multiply-adds.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

# Private by name; the documented way to see every operation (pytorch.org, "Extending torch with modes").
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.errors import SettingsRefused
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.models.student import Attention
from trainer.models.upernet import POOL_BINS, PyramidPooling

HALF_BYTES = 2
Part = Literal["stem", "linear", "attention", "decoder"]
"""Stem; linear layers of the blocks, or a plain encoder's convolutions; attention's two products; decoder."""
PART_NAMES: tuple[Part, ...] = ("stem", "linear", "attention", "decoder")


@dataclass(frozen=True)
class Layer:
    """One layer, or one product without weights, for one tile.

    Attributes:
        counted_by_module: whether ``multiply_adds`` has it: a convolution or a linear layer.
        products: multiplications with their addition.
        moved: values read (inputs and weights) and written.
    """

    part: Part
    counted_by_module: bool
    products: int
    moved: int


@dataclass(frozen=True)
class Profile:
    """Costs of one tile of ``tile`` pixels a side.

    Attributes:
        parameters: with positions, which the paper does not count.
        peak_bytes: most activation memory at once, FP16, without weights: every layer's output apart, freed when no
            later layer reads it, attention's scores written out; peak_bytes_fused: the scores never written.
        peak_method: how these were found.
        bytes_moved: inputs, weights and outputs of every layer, FP16; norms and activations after a convolution, sums,
            resizes and the scores taken as fused with their neighbours.
    """

    name: str
    tile: int
    parameters: int
    positions: int
    layers: tuple[Layer, ...]
    peak_bytes: int
    peak_bytes_fused: int
    peak_method: str

    @property
    def parameters_without_positions(self) -> int:
        """The paper's count."""
        return self.parameters - self.positions

    @property
    def multiply_adds(self) -> int:
        """By the first counter of this module."""
        return sum(layer.products for layer in self.layers if layer.counted_by_module)

    @property
    def flops(self) -> int:
        """By the second counter of this module."""
        return sum(self.flops_by_part.values())

    @property
    def flops_by_part(self) -> dict[Part, int]:
        """``flops`` split."""
        return {part: 2 * sum(layer.products for layer in self.layers if layer.part == part) for part in PART_NAMES}

    @property
    def bytes_moved(self) -> int:
        """At FP16."""
        return HALF_BYTES * sum(layer.moved for layer in self.layers)


def settings_from_yaml(path: Path) -> SegmenterSettings:
    """The network of any configuration of the trainer: its ``model``.

    Raises:
        SettingsRefused: not readable, or no network in it.
    """
    try:
        return SegmenterSettings.model_validate(yaml.safe_load(path.read_text())["model"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, TypeError, KeyError) as error:
        raise SettingsRefused(str(path), f"no network under `model`: {' '.join(str(error).split())}") from error


def profile_of(settings: SegmenterSettings, *, name: str, tile: int = 1024) -> Profile:
    """Count student and decoder on one tile; resizing to pixels and choosing classes are left out.

    Raises:
        SettingsRefused: the network does not take tiles of that size.
    """
    with torch.device("meta"):
        # Further heads are not part of what the paper counts.
        segmenter = Segmenter(settings.model_copy(update={"heads": {}})).half().eval()
    layers: list[Layer] = []
    hooks = _hooks(segmenter, layers)
    try:
        # This run fills `layers` too, through the hooks, with attention as one step.
        fused = _peak_bytes(segmenter, tile)
    except ValueError as error:
        raise SettingsRefused(name, f"tiles of {tile} pixels: {error}") from error
    for hook in hooks:
        hook()
    for module in segmenter.modules():
        if isinstance(module, Attention):
            # The second run measures memory alone, with the scores written out.
            module.explicit = True
    return Profile(
        name=name,
        tile=tile,
        parameters=sum(parameter.numel() for parameter in segmenter.parameters()),
        positions=sum(value.numel() for name, value in segmenter.named_parameters() if name == "student.positions"),
        layers=tuple(layers),
        peak_bytes=_peak_bytes(segmenter, tile),
        peak_bytes_fused=fused,
        peak_method="live tensors of PyTorch's eager run on the meta device",
    )


def _hooks(segmenter: Segmenter, layers: list[Layer]) -> list[Callable[[], None]]:
    """Note every layer that runs; attention becomes one step that writes no scores. Gives what undoes it."""
    undo: list[Callable[[], None]] = []
    for path, module in segmenter.named_modules():
        # By path and not by class: the same convolutions stand in stem and decoder.
        part: Part = "decoder" if path.startswith("decoder") else "stem" if ".stem" in path else "linear"
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm)):
            undo.append(module.register_forward_hook(_layer_seen(part, layers)).remove)
        if isinstance(module, PyramidPooling):
            undo.append(module.register_forward_pre_hook(_means_seen(layers)).remove)
        if isinstance(module, Attention):
            module._attend = _attention_seen(layers)  # type: ignore[method-assign, assignment]
            undo.append(lambda module=module: module.__dict__.pop("_attend") and None)  # type: ignore[misc]
    return undo


def _layer_seen(part: Part, layers: list[Layer]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def seen(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        products = 0
        if isinstance(module, nn.Conv2d):
            products = output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            products = output.numel() * module.in_features
        weights = sum(parameter.numel() for parameter in module.parameters())
        moved = inputs[0].numel() + weights + output.numel()
        layers.append(Layer(part, counted_by_module=products > 0, products=products, moved=moved))

    return seen


def _means_seen(layers: list[Layer]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def seen(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        layers.extend(mean_layer(*inputs[0].shape[1:], bins=bins) for bins in POOL_BINS)

    return seen


def mean_layer(width: int, rows: int, columns: int, *, bins: int) -> Layer:
    """Means over bins x bins cells by two small matrix products: rows first, then columns."""
    products = width * bins * rows * columns + width * bins * bins * columns
    moved = width * (rows * columns + bins * bins)
    return Layer("decoder", counted_by_module=False, products=products, moved=moved)


def _attention_seen(layers: list[Layer]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def attend(q: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Two products, queries with keys and weights with values, each of the size of q times the number of keys.
        products = 2 * q.numel() * int(key.shape[-2])
        moved = 2 * q.numel() + key.numel() + value.numel()
        layers.append(Layer("attention", counted_by_module=False, products=products, moved=moved))
        return torch.empty_like(q)

    return attend


def _peak_bytes(network: nn.Module, tile: int) -> int:
    """Of one run on a tile, on the meta device, at FP16."""
    live = LiveBytes()
    with torch.inference_mode(), live:
        network(torch.empty(1, 3, tile, tile, device="meta", dtype=torch.float16))
    return live.peak


@dataclass
class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, counts the bytes of all tensors made since and still referenced; ``peak`` is the most."""

    live: int = 0
    peak: int = 0
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and enter what it has made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return made

    def _enter(self, storage: torch.UntypedStorage) -> None:
        # Views share a storage, which counts once.
        if id(storage) in self.seen:
            return
        self.seen.add(id(storage))
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, id(storage), storage.nbytes())

    def _leave(self, identity: int, size: int) -> None:
        self.seen.discard(identity)
        self.live -= size
