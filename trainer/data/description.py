"""Description of a labelled set in YAML: paths of images and labels, meaning of the labels, splits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from trainer.config import read_settings
from trainer.errors import SettingsRefused

READY_MADE = Path(__file__).resolve().parents[1] / "sets"
FIELD = re.compile(r"\{([a-z_]+)\}")
"""A field of a pattern: any text without a slash."""

Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="#rrggbb")]
LabelCode = Annotated[int, Field(ge=0, le=65535)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelValues(_Part):
    """Values of the label files that mean one thing."""

    codes: tuple[LabelCode, ...] = ()
    colours: tuple[Colour, ...] = ()


class LandCoverClass(LabelValues):
    """One class: its code (1..K) in our labels, name as in files, title for people, colour of maps."""

    # 0 means no label and 255 stands for an unknown value in the look-up tables.
    code: int = Field(ge=1, le=254)
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    title: str
    colour: Colour


class Split(_Part):
    """Some images of the set: by ``names`` (globs allowed), and by ``lists``, files of one name a line.

    Lists may name files: a suffix is taken off. ``missing`` says what to do when a list names an image that is not
    there. Images that fit a name of ``without`` (globs allowed) are left out again; a plain name has to be an image, or
    one that is misspelt would stay in the split.
    """

    names: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    missing: Literal["refuse", "leave out"] = "refuse"

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.names and not self.lists:
            raise ValueError("a split needs names or lists")
        return self


Meaning = str | tuple[str, ...] | dict[str, Annotated[float, Field(gt=0, le=1)]]
"""What a class of a set means in another class table: one class, several of which any may be true, or several with
the weight of each (1: as good as the label says; less: allowed, but the less likely)."""


class SetDescription(_Part):
    """A labelled set.

    Attributes:
        name: in words without a slash; files are called so.
        folder: of the set, below the folder of the data sets (of a YAML given by path: below the YAML's own folder).
        images: path of an image below ``folder``, with fields in braces: ``{area}/images/{number}.png``. A field stands
            for any text without a slash, and for the same text wherever it comes again.
        labels: path of its label, by the same fields; None: imagery without labels, which has no classes either.
        image_name: name of an image by the same fields; all of them with slashes between, where not given.
        threshold: colours of label files are first made 0 (below it) or 255 in each band.
        ignore: what means "not labelled".
        gsd_m: metres on the ground of a pixel's side, where known.
        translations: what the set's classes mean in the class table of another set, by the name of that set; a class
            that is not named there is ignored.
    """

    name: str
    title: str
    source: str
    licence: str
    folder: Path
    images: str
    labels: str | None
    image_name: str = ""
    threshold: int | None = Field(default=None, ge=1, le=255)
    classes: tuple[LandCoverClass, ...] = ()
    ignore: LabelValues = LabelValues()
    gsd_m: float | None = Field(default=None, gt=0)
    translations: dict[str, dict[str, Meaning]] = Field(default_factory=dict)
    splits: dict[str, Split]

    @model_validator(mode="after")
    def _patterns_agree(self) -> Self:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name {self.name!r}: files are called so; give a name without slashes and no . in front")
        # A label or a name can be made only from fields that an image's path has given.
        known = set(FIELD.findall(self.images))
        if not known:
            raise ValueError(f"images {self.images!r} has no field in braces that tells one image from another")
        if set(Path(self.images).parts) & {"/", ".."} or self.images.startswith("./"):
            raise ValueError(f"images {self.images!r} must lie below `folder`: begin with a name, without / . and ..")
        for pattern in (self.images, self.labels or "", self.image_name):
            if "{" in (rest := FIELD.sub("", pattern)) or "}" in rest:
                raise ValueError(f"{pattern!r} has a brace that is none of a field: fields are {{lower_case}} words")
        for pattern in (self.labels or "", self.image_name):
            if strange := set(FIELD.findall(pattern)) - known:
                raise ValueError(f"{pattern!r} has fields {sorted(strange)} that images {self.images!r} has not")
        return self

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        codes = [item.code for item in self.classes]
        if self.labels is None and codes:
            raise ValueError("a set without labels has no classes: give `labels`, or leave `classes` out")
        # Codes are places in arrays everywhere: channel of the logits + 1, row of the confusion matrix.
        if codes != list(range(1, len(codes) + 1)) or (self.labels is not None and not codes):
            raise ValueError(f"classes must have the codes 1 to K in this order, not {codes}")
        for item in self.classes:
            if not item.codes and not item.colours:
                raise ValueError(f"class {item.name} needs the codes or colours that mean it")
        # "#FF0000" and "#ff0000" are one colour.
        colours = [colour.upper() for part in self.meanings for colour in part.colours]
        _each_once([item.name for item in self.classes], "class name")
        _each_once([f"{code}" for part in self.meanings for code in part.codes], "label code")
        _each_once(colours, "label colour")
        if self.threshold is not None and (odd := [c for c in colours if set(re.findall("..", c[1:])) - {"00", "FF"}]):
            raise ValueError(f"with a threshold, label colours are of 00 and FF only, not {odd}")
        return self

    @model_validator(mode="after")
    def _translations_name_own_classes(self) -> Self:
        own = {item.name for item in self.classes}
        for table, translation in self.translations.items():
            if strange := sorted(set(translation) - own):
                raise ValueError(f"translations.{table} names {strange}; the set's classes are {sorted(own)}")
        return self

    @property
    def meanings(self) -> tuple[LabelValues, ...]:
        """What means each of our codes 0 (ignore), 1, ..., K."""
        return (self.ignore, *self.classes)

    @property
    def naming(self) -> str:
        """Pattern of an image's name."""
        return self.image_name or "/".join(f"{{{field}}}" for field in dict.fromkeys(FIELD.findall(self.images)))


def _each_once(values: list[str], kind: str) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{kind} {twice[0]} stands for more than one thing")


def description_path(given: str) -> Path:
    """Where the YAML of a set lies: ``given`` itself if it is a path, else the ready-made one of that name.

    Raises:
        SettingsRefused: there is none of that name.
    """
    # A path is never looked up among the ready-made sets, so that a file of one's own may have their names.
    if given.endswith((".yaml", ".yml")) or "/" in given:
        return Path(given)
    path = READY_MADE / f"{given}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(ready.stem for ready in READY_MADE.glob("*.yaml")))
        raise SettingsRefused(given, f"no labelled set of this name; there are {names}, or give the path of a YAML")
    return path


def read_description(given: str) -> SetDescription:
    """The description of a set, by name or path of its YAML.

    Raises:
        SettingsRefused: there is none, or it does not hold together.
    """
    return read_settings(description_path(given), SetDescription)
