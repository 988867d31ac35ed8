"""Whether an engine says what the reference said. No engine goes into service without.

Reason: runtimes compute wrong in silence. Source: NVIDIA/TensorRT issue 4723, an FP16 ViT segmenter that collapses on
one version and is right on another.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.engine import Engine, Prediction, Tiles
from engines.errors import AcceptanceFailed, FamiliarityFailed, GoldenFailed, ManifestError, ModelMismatch
from engines.manifest import MANIFEST_NAME, GoldenTile, Manifest, Precision

GOLDEN_NAME = "golden.npz"
_MOST_RATIO = 2.0
"""Of a familiarity to the reference's, for a precision that the manifest says nothing of."""


@dataclass(frozen=True)
class GoldenCheck:
    """An engine that passed.

    Attributes:
        agreement: share of the golden tile's pixels with the reference's class.
        required: least share for this precision.
        output_sha256: hex digest of the engine's own class map. Later checks ask for equality: see engines.self_check.
    """

    agreement: float
    required: float
    output_sha256: str


def verify_golden(engine: Engine) -> GoldenCheck | None:
    """Runs the golden tile; None where the model carries none.

    Raises:
        GoldenFailed: the engine repeats too little of it.
        FamiliarityFailed: its figure of the tile's familiarity strays too far from the reference's.
        ModelMismatch: the golden file is not the manifest's.
        ManifestError: the manifest does not say how much an engine of this precision must repeat.
        InferenceFailed: the runtime failed.
    """
    golden = engine.manifest.golden
    if golden is None or engine.folder is None:
        return None
    required = {str(name): share for name, share in golden.least_agreement.items()}.get(engine.precision)
    if required is None:
        raise ManifestError(
            engine.folder / MANIFEST_NAME,
            "golden.least_agreement",
            f"says nothing of {engine.precision}",
            "measure it on labelled tiles and add it, or use a precision that is listed",
        )
    tiles, expected = read_golden(engine.manifest, engine.folder)
    prediction = engine.infer(tiles)
    classes = prediction.classes[0]
    agreement = pixel_agreement(classes, expected)
    if agreement < required:
        raise GoldenFailed(engine.backend, engine.precision, agreement=agreement, required=required)
    _verify_familiarity(engine, prediction)
    return GoldenCheck(agreement, required, hashlib.sha256(classes.tobytes()).hexdigest())


def _verify_familiarity(engine: Engine, prediction: Prediction) -> None:
    facts = engine.manifest.familiarity
    if facts is None or facts.golden is None or prediction.familiarity is None:
        return
    given, required = float(prediction.familiarity[0]), facts.golden
    most = {str(name): ratio for name, ratio in facts.most_ratio.items()}.get(engine.precision, _MOST_RATIO)
    # Written so that NaN fails.
    if not required / most <= given <= required * most:
        raise FamiliarityFailed(engine.backend, engine.precision, given=given, required=required, most_ratio=most)


def verify_accepted(engine: Engine) -> None:
    """Passes unless labelled data have shown before launch that this precision costs too much.

    Raises:
        AcceptanceFailed: they have.
    """
    failed = [item for item in engine.manifest.acceptance if item.precision == engine.precision and not item.passed]
    if failed:
        raise AcceptanceFailed(engine.backend, failed[0])


def golden_tiles(engine: Engine, count: int) -> Tiles:
    """The model's golden tile, turned; noise of a fixed seed where it carries none."""
    manifest = engine.manifest
    if manifest.golden is not None and engine.folder is not None:
        tile = read_golden(manifest, engine.folder)[0][0]
        return np.stack([np.rot90(tile, k=index, axes=(1, 2)) for index in range(count)])
    size = manifest.input.tile_size
    shape = (count, len(manifest.input.bands), size, size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def pixel_agreement(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Share 0..1 of pixels with equal codes; both of one shape."""
    if one.shape != other.shape:
        raise ValueError(f"shapes {one.shape} and {other.shape} cannot be compared")
    return float(np.mean(one == other))


def read_golden(manifest: Manifest, folder: Path) -> tuple[Tiles, NDArray[np.uint8]]:
    """The golden tile (1, bands, S, S) and the reference's classes (S, S), both uint8.

    Raises:
        ModelMismatch: the file is missing, another, or holds no such arrays.
    """
    golden = manifest.golden
    if golden is None:
        raise ManifestError(folder / MANIFEST_NAME, "golden", "there is none", "use a model with a golden tile")
    size = manifest.input.tile_size
    shapes = {"tile": (len(manifest.input.bands), size, size), "classes": (size, size)}
    arrays = _golden_arrays(golden, folder, tuple(shapes))
    for name, shape in shapes.items():
        _check_array(arrays[name], folder / golden.file, name, shape)
    return arrays["tile"][np.newaxis], arrays["classes"]


def read_packed(manifest: Manifest, folder: Path) -> Tiles | None:
    """The packed tile (1, bands, S, S), see engines.packed_tile; None where the golden file is older than that.

    Raises:
        ModelMismatch: the file is missing, another, or holds another kind of array.
    """
    golden = manifest.golden
    if golden is None:
        return None
    arrays = _golden_arrays(golden, folder, (), ("packed",))
    if "packed" not in arrays:
        return None
    size = manifest.input.tile_size
    _check_array(arrays["packed"], folder / golden.file, "packed", (len(manifest.input.bands), size, size))
    return arrays["packed"][np.newaxis]


def _golden_arrays(
    golden: GoldenTile, folder: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, NDArray[np.uint8]]:
    content = golden.read_verified(folder)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (*required, *(set(optional) & set(arrays.files)))}
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ModelMismatch(
            folder / golden.file, "content", given=f"not readable ({error})", required="arrays tile and classes"
        ) from error


def _check_array(array: NDArray[np.uint8], path: Path, name: str, shape: tuple[int, ...]) -> None:
    if array.dtype != np.uint8 or array.shape != shape:
        raise ModelMismatch(path, f"array {name}", given=f"{array.dtype} {array.shape}", required=f"uint8 {shape}")


def write_golden(
    folder: Path,
    *,
    tile: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    least_agreement: dict[Precision, float],
    packed: NDArray[np.uint8] | None = None,
) -> GoldenTile:
    """Writes golden.npz into a model's folder: tile (bands, S, S) and the reference's classes (S, S), both uint8.

    ``packed``: a tile of crops (bands, S, S) that an engine is compared with itself on, see engines.packed_tile. Files
    without it are read as well. Equal arrays give equal bytes. Returns the manifest's entry.
    """
    buffer = io.BytesIO()
    if packed is None:
        np.savez_compressed(buffer, tile=tile, classes=classes)
    else:
        np.savez_compressed(buffer, tile=tile, classes=classes, packed=packed)
    (folder / GOLDEN_NAME).write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return GoldenTile(file=GOLDEN_NAME, sha256=digest, least_agreement=least_agreement)
