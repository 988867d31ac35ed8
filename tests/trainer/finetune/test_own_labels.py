"""`trainer finetune --set`: a configuration of one set, taught by labels of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainer.tiny_sets import many_sets_settings, write_set
from trainer.cli import main
from trainer.training.history import history


def _configuration(folder: Path, sets: int) -> Path:
    settings: dict[str, Any] = json.loads(many_sets_settings(folder, max_steps=2).model_dump_json(exclude_none=True))
    settings["heads"]["coarse"]["weight"] = 0
    settings["data"]["sets"] = settings["data"]["sets"][:sets]
    # Of the configuration's set alone: another one has its own resolution and no soft labels yet.
    settings["data"]["sets"][0] |= {"gsd_m": 0.3, "soft": str(folder / "nowhere"), "split": "made", "root": str(folder)}
    path = folder / "own.yaml"
    # Heads in their order: the first is the model's own.
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def test_a_set_of_one_s_own_stands_in_place_of_the_configuration_s(tmp_path: Path) -> None:
    own = write_set(tmp_path / "mine", "own", 160, 3, gsd_m=1.0, translations={
        str(tmp_path / "cover" / "set.yaml"): {"roof": "roof", "green": "green", "water": "water"}
    })  # fmt: skip
    run = tmp_path / "run"
    command = ["finetune", "--config", str(_configuration(tmp_path, 1)), "--run", str(run), "--set", own]
    assert main([*command, "--names", "1", "2"]) == 0
    (facts,) = history(run)
    (used,) = facts["settings"]["data"]["sets"]
    assert (used["set"], used["names"], used["split"]) == (own, ["1", "2"], "train")
    assert [used[name] for name in ("gsd_m", "soft", "root")] == [None, None, None]


@pytest.mark.parametrize("option", ["--set", "--names"])
def test_of_several_sets_one_option_cannot_say_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    run = tmp_path / "run"
    command = ["finetune", "--config", str(_configuration(tmp_path, 2)), "--run", str(run), option, "other"]
    assert main(command) == 2
    assert f"{option}: the configuration has 2 sets" in capsys.readouterr().err
    assert not run.exists()
