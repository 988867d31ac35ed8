from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.config import AugmentSettings, ColourSettings, DataSettings, FinetuneSettings, JitterSettings
from trainer.errors import CheckpointRefused
from trainer.training.run_identity import check_run_identity

BARE = AugmentSettings(colour=None, jitter=None)
COLOURFUL = AugmentSettings(colour=ColourSettings(brightness=0.9), jitter=JitterSettings(hue=0.5))


def settings_of(augment: AugmentSettings, **more: Any) -> FinetuneSettings:
    return FinetuneSettings(name="x", max_steps=1, data=DataSettings(augment=augment), **more)


def told(settings: FinetuneSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


@pytest.mark.parametrize(("before", "now"), [(BARE, COLOURFUL), (COLOURFUL, BARE)])
def test_a_group_of_settings_switched_on_or_off_is_another_run(before: AugmentSettings, now: AugmentSettings) -> None:
    with pytest.raises(CheckpointRefused, match=r"data\.augment\.colour was .* and is .* now, data\.augment\.jitter"):
        check_run_identity(Path("run"), told(settings_of(before)), settings_of(now))


def test_a_value_within_a_group_is_named(tmp_path: Path) -> None:
    now = settings_of(COLOURFUL.model_copy(update={"jitter": JitterSettings(hue=0.25)}))
    with pytest.raises(CheckpointRefused, match=r"settings: data\.augment\.jitter\.hue was 0\.5 and is 0\.25 now;"):
        check_run_identity(tmp_path, told(settings_of(COLOURFUL)), now)


def test_a_setting_that_only_one_version_knows_and_where_a_run_runs_are_let_be() -> None:
    before = told(settings_of(BARE)) | {"of_old": 1}
    del before["dice"], before["data"]["augment"]["jitter"]
    check_run_identity(Path("run"), before, settings_of(BARE, machine={"threads": 2}, seed=0, max_minutes=1.0))
