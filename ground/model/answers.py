"""What a satellite answers about models, as the ground takes it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ground.answers import LARGEST_FILE, Count, Name, Sha256

Text = Annotated[str, Field(max_length=4000)]


# Strict for the types, open for fields: a satellite of a newer version may say more.
class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class FileAboard(_Answer):
    """A file of a model, and how much of it is aboard."""

    name: Name
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=LARGEST_FILE)]
    held: Annotated[int, Field(ge=0, le=LARGEST_FILE)]
    differences: Annotated[dict[Sha256, Count], Field(max_length=64)] = {}


class HeadAboard(_Answer):
    """A head of a model aboard."""

    name: Name
    classes: Count


class ModelAboard(_Answer):
    """A model aboard."""

    digest: Sha256
    name: Text
    version: Text
    origin: Text
    state: Text
    reason: Text
    # Services of before models with heads do not name it.
    heads: Annotated[list[HeadAboard], Field(max_length=64)] = []
    files: Annotated[list[FileAboard], Field(max_length=64)]
    figures: dict[str, Any]
    failures: Count
    in_service: bool


class WholeFile(_Answer):
    """A whole file aboard, for differences."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=LARGEST_FILE)]
    name: Name


class ModelsAboard(_Answer):
    """All models aboard."""

    takes_models: bool
    problem: Text | None
    root_version: Count | None
    list_version: Count | None
    models: Annotated[list[ModelAboard], Field(max_length=1000)]
    aboard: Annotated[list[WholeFile], Field(max_length=10_000)]

    def model(self, digest: str) -> ModelAboard | None:
        """By its digest."""
        return next((model for model in self.models if model.digest == digest), None)


class MetadataTaken(_Answer):
    """Signed metadata that was taken."""

    version: Count


class FileTaken(_Answer):
    """How far a file is."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=LARGEST_FILE)]
    held: Annotated[int, Field(ge=0, le=LARGEST_FILE)]
    whole: bool
