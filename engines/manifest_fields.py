"""Parts of a manifest that say what a model is: files, bands, tensors, classes."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Mapping, Sequence
from datetime import timezone
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from engines.errors import ModelMismatch

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="lower-case hex")]
# Lower case and no separators: it becomes a folder's name, a tag and an identifier.
Slug: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
# No slash and no dot in front: a manifest that comes up the link names no file outside of its folder.
FileName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
UtcTime: TypeAlias = Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(timezone.utc))]


class Part(BaseModel):
    """Base of every part: frozen, and no keys but those that are known."""

    # A key that is not known may change the meaning of others: a newer manifest is refused, not half understood.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(Part):
    """A file beside the manifest, with its SHA-256."""

    file: FileName
    sha256: Sha256

    def read_verified(self, folder: Path) -> bytes:
        """Reads the file and checks its SHA-256; use these bytes, since the file may change after the check.

        Raises:
            ModelMismatch: the file is missing, or its SHA-256 is another.
        """
        path = folder / self.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelMismatch(path, "the file", given=os_reason(error), required=f"sha256 {self.sha256}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise ModelMismatch(path, "sha256", given=digest, required=self.sha256)
        return content


class ModelFile(FileEntry):
    """The ONNX file (the asset of role mlm:model)."""

    bytes: Annotated[int, Field(ge=1, description="file size")]

    def read_verified(self, folder: Path) -> builtins.bytes:
        """As FileEntry.read_verified; also checks the size."""
        content = super().read_verified(folder)
        # With the right digest a wrong size is a fault of the manifest.
        if len(content) != self.bytes:
            raise ModelMismatch(folder / self.file, "size", given=f"{len(content)} bytes", required=f"{self.bytes}")
        return content

    @classmethod
    def of(cls, path: Path) -> ModelFile:
        """The entry for an existing file: its name, SHA-256 and size."""
        content = path.read_bytes()
        return cls(file=path.name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


class Band(Part):
    """One spectral band; `common_name` as in STAC's eo:common_name."""

    name: Slug
    common_name: Slug


SIDE_STEP = 64
"""Pixels that the sides of a model's tiles are multiples of, where it takes tiles of several sides: a multiple of the
stride of every network here."""
CELL = 256
"""Pixels along a cell of the familiarity (docs/familiarity.md): such a tile has at least one."""


def _check_sides(sides: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The same sides.

    Raises:
        ValueError: they do not rise, or one is no multiple of SIDE_STEP from CELL on.
    """
    if sides is not None and (
        list(sides) != sorted(set(sides)) or any(side < CELL or side % SIDE_STEP for side in sides)
    ):
        raise ValueError(f"sides are {list(sides)}, give multiples of {SIDE_STEP} from {CELL} on, in rising order")
    return sides


class ModelInput(Part):
    """The input tensor: uint8 (N, bands, tile_size, tile_size), any N.

    Attributes:
        name: of the graph's input tensor.
        bands: in the order of the tensor's second axis.
        tile_size: pixels; the largest side of a tile.
        tile_sides: pixels, rising: height and width of a tile are each one of these. None where the graph takes squares
            of `tile_size` alone. A runtime may compute nonsense for a size that a graph was not made for, and say
            nothing: so the exporter declares the sides, and nobody guesses them.
        value_scaling: how the values are normalised, in words; the graph does it.
    """

    name: Text = "tiles"
    bands: Annotated[tuple[Band, ...], Field(min_length=1)]
    tile_size: Annotated[int, Field(ge=1, le=16384)]
    tile_sides: Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_check_sides)] | None = None
    data_type: Literal["uint8"] = "uint8"
    value_scaling: Text

    @model_validator(mode="after")
    def _largest_is_the_size(self) -> ModelInput:
        if self.tile_sides is not None and self.tile_sides[-1] != self.tile_size:
            raise ValueError(f"the largest of tile_sides is {self.tile_sides[-1]}, tile_size is {self.tile_size}")
        return self

    @model_serializer(mode="wrap")
    def _without_absent_sides(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        # Left out: the text of a manifest without sides stays what it was, and software that does not know the key
        # reads it.
        if self.tile_sides is None:
            fields.pop("tile_sides", None)
        return fields

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels, rising: the sides that a tile may have."""
        return self.tile_sides or (self.tile_size,)


class ModelOutput(Part):
    """Names of the graph's output tensors, each uint8 (N, h, w); `confidence` None where there is none."""

    classes: Text = "classes"
    confidence: Text | None = None


class ClassInfo(Part):
    """One class of the map: `code` is the pixel value, `name` the identifier, `title` for people."""

    code: Annotated[int, Field(ge=1, le=255)]
    name: Slug
    title: Text
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="#rrggbb")]


def check_classes(classes: tuple[ClassInfo, ...]) -> tuple[ClassInfo, ...]:
    """The same classes.

    Raises:
        ValueError: codes are not 1..K in order, or two classes have one name or title.
    """
    # Without gaps, since codes are indices of confusion matrices and palettes.
    codes = [item.code for item in classes]
    if codes != list(range(1, len(classes) + 1)):
        raise ValueError(f"codes are {codes}, number them 1..{len(classes)} in order")
    for kind, values in (("names", [c.name for c in classes]), ("titles", [c.title for c in classes])):
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"{kind} given twice: {', '.join(repeated)}")
    return classes


Classes: TypeAlias = Annotated[
    tuple[ClassInfo, ...], Field(min_length=1, max_length=255), AfterValidator(check_classes)
]


def check_figures(classes: tuple[ClassInfo, ...], figures: Sequence[Mapping[str, Any]]) -> None:
    """Passes if accuracy is given for known classes only.

    Raises:
        ValueError: a figure is of a class that the model has not.
    """
    names = {item.name for item in classes}
    for per_class_iou in figures:
        if unknown := sorted(set(per_class_iou) - names):
            raise ValueError(f"evaluation names classes that the model has not: {', '.join(unknown)}")


def os_reason(error: OSError) -> str:
    """Why a file cannot be read, in words."""
    return f"not readable ({error.strerror})" if error.strerror else "not readable"
