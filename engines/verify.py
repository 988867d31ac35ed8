"""Checks an engine against the reference's output on the golden tile, before it is used.

Reason: runtimes can compute wrong values without an error. Source: NVIDIA/TensorRT issue 4723, an FP16 ViT segmenter
that collapses on one version and is right on another.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.engine import Engine, Prediction, Tiles
from engines.errors import AcceptanceFailed, FamiliarityFailed, GoldenFailed, ManifestError, ModelMismatch
from engines.files import replace_file
from engines.manifest import MANIFEST_NAME, GoldenTile, Manifest, Precision

GOLDEN_NAME = "golden.npz"
_MOST_RATIO = 2.0
"""Largest factor between a familiarity and the reference's, for a precision that the manifest does not list."""


@dataclass(frozen=True)
class GoldenCheck:
    """Result of a passed check.

    Attributes:
        agreement: share of the golden tile's pixels with the reference's class; of the head that came closest to
            failing, where there are several.
        required: least share for this precision.
        output_sha256: hex digest of the engine's own class maps. Later checks ask for equality
            (engines.integrity.self_check).
    """

    agreement: float
    required: float
    output_sha256: str


def verify_golden(engine: Engine) -> GoldenCheck | None:
    """Runs the golden tile and compares; None where the model has no golden tile.

    Raises:
        GoldenFailed: too few pixels have the reference's class.
        FamiliarityFailed: the familiarity differs too much from the reference's.
        ModelMismatch: the golden file is not the manifest's.
        ManifestError: the manifest has no least agreement for this precision.
        InferenceFailed: the runtime failed.
    """
    golden = engine.manifest.golden
    if golden is None or engine.folder is None:
        return None
    # Before the inference: a precision that the manifest does not judge is refused at once.
    required = [_required(engine, answer) for answer in engine.manifest.golden_answers.values()]
    prediction = engine.infer(read_golden_tile(engine.manifest, engine.folder))
    expected = read_answers(engine.manifest, engine.folder)
    checks = []
    for least, answer, head in zip(required, expected, prediction.heads, strict=True):
        agreement = pixel_agreement(head.classes[0], answer)
        if agreement < least:
            raise GoldenFailed(engine.backend, engine.precision, agreement=agreement, required=least)
        checks.append((agreement - least, agreement, least))
    _verify_familiarity(engine, prediction)
    _, agreement, least = min(checks)
    digest = hashlib.sha256(b"".join(head.classes[0].tobytes() for head in prediction.heads)).hexdigest()
    return GoldenCheck(agreement, least, digest)


def _required(engine: Engine, answer: GoldenTile) -> float:
    """The least agreement with one head's answer."""
    required = {str(name): share for name, share in answer.least_agreement.items()}.get(engine.precision)
    if required is None:
        raise ManifestError(
            (engine.folder or Path()) / MANIFEST_NAME,
            "golden.least_agreement",
            f"says nothing of {engine.precision}",
            "measure it on labelled tiles and add it, or use a precision that is listed",
        )
    return required


def _verify_familiarity(engine: Engine, prediction: Prediction) -> None:
    facts = engine.manifest.familiarity
    if facts is None or facts.golden is None or prediction.familiarity is None:
        return
    # A factor, not a difference: near the threshold of 0.02 a small difference decides.
    given, required = float(prediction.familiarity[0]), facts.golden
    most = {str(name): ratio for name, ratio in facts.most_ratio.items()}.get(engine.precision, _MOST_RATIO)
    # Written so that NaN fails.
    if not required / most <= given <= required * most:
        raise FamiliarityFailed(engine.backend, engine.precision, given=given, required=required, most_ratio=most)


def verify_accepted(engine: Engine) -> None:
    """Passes unless the manifest records that this precision failed its acceptance test on labelled data.

    Raises:
        AcceptanceFailed: it does.
    """
    manifest = engine.manifest
    measured = [*manifest.acceptance, *(item for head in manifest.further_heads for item in head.acceptance)]
    failed = [item for item in measured if item.precision == engine.precision and not item.passed]
    if failed:
        acceptance = failed[0]
        raise AcceptanceFailed(
            engine.backend, engine.precision, data=acceptance.data, loss=acceptance.miou_reference - acceptance.miou,
            most_loss=acceptance.most_loss,
        )  # fmt: skip


def golden_tiles(engine: Engine, count: int) -> Tiles:
    """`count` tiles: rotations of the model's golden tile, or noise of a fixed seed where it has none."""
    manifest = engine.manifest
    if manifest.golden is not None and engine.folder is not None:
        tile = read_golden_tile(manifest, engine.folder)[0]
        return np.stack([np.rot90(tile, k=index, axes=(1, 2)) for index in range(count)])
    size = manifest.input.tile_size
    shape = (count, len(manifest.input.bands), size, size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def pixel_agreement(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Share 0..1 of pixels with equal codes; both of one shape."""
    if first.shape != second.shape:
        raise ValueError(f"shapes {first.shape} and {second.shape} cannot be compared")
    return float(np.mean(first == second))


def read_golden(manifest: Manifest, folder: Path) -> tuple[Tiles, NDArray[np.uint8]]:
    """The golden tile (1, bands, S, S) and the reference's classes (S, S) of the first head, both uint8.

    Raises:
        ModelMismatch: a file is missing, another, or holds no such arrays.
    """
    return read_golden_tile(manifest, folder), read_answers(manifest, folder)[0]


def read_golden_tile(manifest: Manifest, folder: Path) -> Tiles:
    """The golden tile, uint8 (1, bands, S, S).

    Raises:
        ModelMismatch: the file is missing, another, or holds no such array.
    """
    golden = manifest.golden
    if golden is None:
        raise ManifestError(folder / MANIFEST_NAME, "golden", "there is none", "use a model with a golden tile")
    size = manifest.input.tile_size
    tile = _golden_arrays(golden, folder, ("tile",))["tile"]
    _check_array(tile, folder / golden.file, "tile", (len(manifest.input.bands), size, size))
    return tile[np.newaxis]


def read_answers(manifest: Manifest, folder: Path) -> list[NDArray[np.uint8]]:
    """The reference's classes of the golden tile, uint8 (S, S), of each head asked for.

    Raises:
        ModelMismatch: a file is missing, another, or holds no such array.
    """
    size, answers = manifest.input.tile_size, []
    for entry in manifest.golden_answers.values():
        classes = _golden_arrays(entry, folder, ("classes",))["classes"]
        _check_array(classes, folder / entry.file, "classes", (size, size))
        answers.append(classes)
    return answers


def read_packed(manifest: Manifest, folder: Path) -> Tiles | None:
    """The packed tile (1, bands, S, S) of engines.integrity.packed_tile; None where the golden file has none.

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
    # Read once: the arrays come from the bytes that were checked. No pickles, which run code: models come up the link.
    content = golden.read_verified(folder)
    try:
        with _archive(content) as arrays:
            return {name: arrays[name] for name in (*required, *(set(optional) & set(arrays.files)))}
    except (KeyError, ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelMismatch(
            folder / golden.file, "content", given=f"not readable ({error})", required="arrays tile and classes"
        ) from error


def _archive(content: bytes) -> Any:
    """NumPy's archive of arrays.

    Raises:
        ValueError: it is one array alone, which NumPy reads as well. Others of NumPy, zipfile and zlib: it is none.
    """
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise ValueError("one array and no archive")  # noqa: TRY004 -- a fault of the file, caught as the others are
    return loaded


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

    ``packed``: a tile of crops (bands, S, S), on which a running engine is compared with its own first answer (see
    engines.integrity.packed_tile). Files without it are read as well. Equal arrays give equal bytes. Returns the
    manifest's entry.
    """
    buffer = io.BytesIO()
    if packed is None:
        # NumPy dates the files in the archive 1980-01-01, so equal arrays give equal bytes.
        np.savez_compressed(buffer, tile=tile, classes=classes)
    else:
        np.savez_compressed(buffer, tile=tile, classes=classes, packed=packed)
    return _write(folder / GOLDEN_NAME, buffer, least_agreement)


def write_answer(
    folder: Path, name: str, classes: NDArray[np.uint8], least_agreement: dict[Precision, float]
) -> GoldenTile:
    """Writes NAME.golden.npz, one head's reference classes of the golden tile (S, S) uint8; the manifest's entry."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, classes=classes)
    return _write(folder / f"{name}.{GOLDEN_NAME}", buffer, least_agreement)


def _write(path: Path, buffer: io.BytesIO, least_agreement: dict[Precision, float]) -> GoldenTile:
    replace_file(path, buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return GoldenTile(file=path.name, sha256=digest, least_agreement=least_agreement)
