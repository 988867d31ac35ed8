"""Finds a model's weights in the memory of another process, whatever the runtime made of them, and flips their bits.

Looked for are the values of each tensor as they stand in the file, and as runtimes pack them: sixteen output channels
side by side, or eight (AVX2), in FP32 or rounded to bfloat16, also in pairs of inputs. What is not found so is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from engines.integrity.memory_map import read_maps

Values = NDArray[np.float32]
SIDE_BY_SIDE = 16
PACKED = (16, 8)
"""Output channels that runtimes put side by side: with AVX-512, and with AVX2."""
_LARGEST = 1 << 30
_COMMON = 200
"""Places within 8 MB from which eight bytes are no sign of a weight."""


@dataclass(frozen=True)
class Found:
    """Some weights of a tensor in memory: `count` values of `bits` (16 or 32) each, from `address` on."""

    layer: str
    address: int
    bits: int
    count: int


@dataclass(frozen=True)
class Flip:
    """One bit of one value."""

    layer: str
    kind: str
    address: int
    bit: int


class ProcessMemory:
    """Memory of a process of ours."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._file = os.open(f"/proc/{pid}/mem", os.O_RDWR)

    def read(self, address: int, size: int) -> bytes:
        return os.pread(self._file, size, address)

    def flip(self, address: int, bit: int) -> None:
        """Changes one bit of the byte there."""
        value = self.read(address, 1)[0] ^ (1 << bit)
        os.pwrite(self._file, bytes([value]), address)

    def regions(self) -> Iterator[tuple[int, bytes]]:
        """Everything private, writable and without a file that is there now, with its address."""
        for mapping in read_maps(Path(f"/proc/{self.pid}/maps")):
            if mapping.permissions[:2] != "rw" or mapping.permissions[3] != "p" or mapping.name.startswith(("/", "[s")):
                continue
            try:
                content = self.read(mapping.start, min(mapping.end - mapping.start, _LARGEST))
            except OSError:
                continue
            yield mapping.start, content

    def close(self) -> None:
        os.close(self._file)


def tensors_of(model: bytes) -> dict[str, Values]:
    """The weights of an ONNX file's content: floats with two different values or more."""
    graph = onnx.load_from_string(model).graph
    users = {name: node.op_type + "/" + (node.name or node.output[0]) for node in graph.node for name in node.input}
    found = {}
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype in (np.float32, np.float16) and values.size >= 4 and np.unique(values).size >= 2:
            found[f"{users.get(tensor.name, '?')} {tensor.name}"] = values.astype(np.float32)
    return found


def locate(memory: ProcessMemory, tensors: dict[str, Values], model: bytes, tries: int = 3) -> list[Found]:
    """Where weights of each tensor lie: each pattern's first place; copies of the model's file are left out."""
    chance = np.random.default_rng(5)
    patterns: dict[int, list[tuple[bytes, int, str]]] = {}
    for layer, values in tensors.items():
        for content, bits in sorted({pattern for _ in range(tries) for pattern in _patterns(values, chance)}):
            patterns.setdefault(int.from_bytes(content[:8], "little"), []).append((content, bits, layer))
    keys = np.array(sorted(patterns), dtype=np.uint64)
    found: dict[tuple[bytes, str], Found] = {}
    in_file: dict[bytes, int] = {}
    for start, region in memory.regions():
        for at, key in _hits(region, keys):
            for content, bits, layer in patterns[key]:
                same = region[at : at + len(content)] == content
                if same and (content, layer) not in found:
                    if content not in in_file:
                        in_file[content] = model.find(content)
                    if _is_copy(region, at, model, in_file[content]):
                        continue
                    found[content, layer] = Found(layer, start + at, bits, len(content) * 8 // bits)
    return list(found.values())


def _hits(region: bytes, keys: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Places, at multiples of four bytes, where eight bytes are one of the keys; a table of hashes comes first."""
    factor, shift = np.uint64(0x9E3779B97F4A7C15), np.uint64(44)
    table = np.zeros(1 << 20, dtype=np.bool_)
    table[(keys * factor) >> shift] = True
    for offset in (0, 4):
        for first in range(offset, len(region) - 8, 8 << 20):
            count = min(1 << 20, (len(region) - first) // 8)
            words = np.frombuffer(region, np.uint64, count, first)
            maybe = np.flatnonzero(table[(words * factor) >> shift])
            sure = maybe[np.isin(words[maybe], keys)]
            values, counts = np.unique(words[sure], return_counts=True)
            sure = sure[~np.isin(words[sure], values[counts > _COMMON])]
            yield from zip((first + 8 * sure).tolist(), words[sure].tolist(), strict=True)


def _is_copy(region: bytes, at: int, model: bytes, in_file: int) -> bool:
    """Whether the bytes before a hit are those before it in the model's file."""
    before = min(64, in_file, at)
    return in_file > 0 and before >= 16 and region[at - before : at] == model[in_file - before : in_file]


def _patterns(values: Values, chance: np.random.Generator) -> Iterator[tuple[bytes, int]]:
    flat = values.reshape(-1)
    begin = int(chance.integers(0, max(1, flat.size // SIDE_BY_SIDE))) * SIDE_BY_SIDE
    rows = [flat[begin : begin + SIDE_BY_SIDE]]
    for wide in PACKED:
        if values.ndim >= 2 and values.shape[0] >= wide:
            rows += _packed(values, chance, wide)
    if values.ndim == 2 and values.shape[1] >= SIDE_BY_SIDE and values.shape[0] >= 2:
        row = int(chance.integers(0, values.shape[0] // 2)) * 2
        col = int(chance.integers(0, values.shape[1] // SIDE_BY_SIDE)) * SIDE_BY_SIDE
        rows.append(np.ascontiguousarray(values[row : row + 2, col : col + SIDE_BY_SIDE].T).ravel())
    for row_values in rows:
        if np.unique(row_values).size < 2 or len(row_values) < 8:
            continue
        yield np.ascontiguousarray(row_values).tobytes(), 32
        if len(row_values) >= SIDE_BY_SIDE:
            yield rounded(row_values).tobytes(), 16


def _packed(values: Values, chance: np.random.Generator, wide: int) -> list[Values]:
    """Values of one input (and of a pair of inputs) for so many outputs side by side."""
    outputs = int(chance.integers(0, values.shape[0] // wide)) * wide
    rest = [int(chance.integers(0, side)) for side in values.shape[1:]]
    index: tuple[Any, ...] = (slice(outputs, outputs + wide), *rest)
    rows = [values[index]]
    if values.shape[1] >= 2:
        rest[0] = min(rest[0] - rest[0] % 2, values.shape[1] - 2)
        pairs: list[tuple[Any, ...]] = [(index[0], rest[0] + k, *rest[1:]) for k in (0, 1)]
        rows.append(np.stack([values[one] for one in pairs], axis=1).ravel())
    return rows


def rounded(values: Values) -> NDArray[np.uint16]:
    """To bfloat16, to nearest even, as its bits."""
    words = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    halves: NDArray[np.uint16] = ((words + 0x7FFF + ((words >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(
        np.uint16
    )
    return halves


def flips(found: list[Found], count: int, seed: int = 0) -> list[Flip]:
    """So many bits, layer after layer, by turns of the sign, the exponent and the mantissa."""
    chance = np.random.default_rng(seed)
    layers = sorted({place.layer for place in found})
    chosen = []
    for number in range(count):
        of_layer = [place for place in found if place.layer == layers[number % len(layers)]]
        place = of_layer[int(chance.integers(len(of_layer)))]
        kind = ("exponent", "mantissa", "sign")[(number // len(layers) + number) % 3]
        low = {"sign": place.bits - 1, "exponent": place.bits - 9, "mantissa": 0}[kind]
        high = {"sign": place.bits, "exponent": place.bits - 1, "mantissa": place.bits - 9}[kind]
        bit = int(chance.integers(low, high))
        value = place.address + int(chance.integers(place.count)) * place.bits // 8
        chosen.append(Flip(place.layer, kind, value + bit // 8, bit % 8))
    return chosen
