"""Settings of an ablation study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from trainer.config import FinetuneSettings, checked_settings
from trainer.distill.settings import DistillSettings


class ArmSettings(BaseModel):
    """Settings that one arm changes; each key replaces the whole value.

    Attributes:
        title: in the table.
        distill: None: no distillation, the encoder stays as it was drawn.
        finetune: changes to the decoder's run.
        x: place on the axis of the learning curve.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    distill: dict[str, Any] | None = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)
    x: float | None = None


class AblateSettings(BaseModel):
    """A matrix.

    Attributes:
        distill: settings all arms share; so ``finetune``. Seed and folders are set by the matrix.
        arms: by name.
        against: the arm that differences are taken from.
        gate: arm that must beat ``against`` by two standard deviations for the others to mean anything.
        evaluate: names of images by that of a column, one confusion matrix each. The first column is compared.
        least_images: runs with fewer images in their distillation are marked as smoke tests.
        tile, halo: of the evaluation, in pixels.
        x_label: of the learning curve, if the arms have places on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    about: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    distill: dict[str, Any] = Field(default_factory=dict)
    finetune: dict[str, Any]
    arms: dict[str, ArmSettings]
    against: str
    gate: str | None = None
    evaluate: dict[str, tuple[str, ...]]
    least_images: int = Field(default=0, ge=0)
    tile: int = 256
    halo: int = 32
    x_label: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (self.against, self.gate):
            if name is not None and name not in self.arms:
                raise ValueError(f"no arm is called {name!r}; there are {', '.join(self.arms)}")
        for name, arm in self.arms.items():
            # Built once for each arm, so that a mistake in the last arm shows before the first one runs.
            self.distill_of(name, seed=self.seeds[0])
            if arm.x is not None and not self.x_label:
                raise ValueError(f"arms.{name}.x has no x_label to stand on")
        return self

    def distill_of(self, arm: str, *, seed: int) -> DistillSettings | None:
        """The distillation of an arm.

        Raises:
            SettingsRefused: its settings do not hold together.
        """
        changes = self.arms[arm].distill
        if changes is None:
            return None
        document = self.distill | changes | {"seed": seed, "name": f"{self.name} {arm}"}
        return checked_settings(document, DistillSettings, f"{self.name}: arms.{arm}.distill")

    def finetune_of(self, arm: str, *, seed: int, encoder: Path | None) -> FinetuneSettings:
        """The decoder's run of an arm, on the encoder of a distillation's folder.

        Raises:
            SettingsRefused: its settings do not hold together.
        """
        document = self.finetune | self.arms[arm].finetune | {"seed": seed, "name": f"{self.name} {arm}"}
        if encoder is not None:
            document["encoder"] = str(encoder)
        return checked_settings(document, FinetuneSettings, f"{self.name}: arms.{arm}.finetune")
