"""`trainer`: the command line for distilling, finetuning, exporting, evaluating and profiling models."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from engines.command_line import OneLineParser, add_examples, add_version
from trainer.commands import exporting, keep, labels, measuring, mosaics, packaging, tiles, training
from trainer.errors import TrainerError
from trainer.log_lines import StdoutHandler


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build one settings object, call one function; one line on stderr when it cannot."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[StdoutHandler()])
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL cannot read is told by us, once
    # After parsing: `trainer --help` and a mistyped command answer without these.
    from engines.broken_pipe import discard_stdout
    from engines.errors import EngineError
    from onboard.errors import OnboardError

    try:
        options.run(options)
        # Inside the try: lines still in the buffer may meet a reader that has gone.
        sys.stdout.flush()
    except (TrainerError, EngineError, OnboardError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        # A module of our own that is missing is a fault of the program and keeps its traceback.
        if (missing := _missing(error)) is None:
            raise
        print(f"trainer: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("trainer: interrupted", file=sys.stderr)
        return 130
    # Before OSError, of which it is one: a reader that leaves (| head) is no failure.
    except BrokenPipeError:
        return discard_stdout()
    except OSError as error:
        print(f"trainer: {_os_error(error)}", file=sys.stderr)
        return 1
    return 0


def _missing(error: ModuleNotFoundError) -> str | None:
    """What to install for this command, in one line; None where a module of our own is missing."""
    module = (error.name or "").partition(".")[0]
    if not module or module in ("trainer", "engines", "onboard", "telemetry"):
        return None
    clone = Path(__file__).parents[1]
    package = f"-e '{clone}[trainer]'" if (clone / "pyproject.toml").is_file() else "'onboard-landcover[trainer]'"
    return f"this command needs {module}, which is not installed; {sys.executable} -m pip install {package}"


def _os_error(error: OSError) -> str:
    """A path that cannot be read or written, in one line."""
    reason = (error.strerror or str(error)).lower()
    return reason if error.filename is None else f"{error.filename}: {reason}"


EXAMPLES = {
    "tiles": "trainer tiles imagery/ --out tiles",
    "mosaics": "trainer mosaics deepglobe-tiles --out out/mosaics",
    "labels": "trainer labels dubai scene_3 scene_4 --out out/labels",
    "distill": "trainer distill --config trainer/configs/mask_cdkd.yaml --tiles tiles --run runs/distilled",
    "finetune": "trainer finetune --config trainer/configs/deepglobe.yaml --encoder runs/distilled --run runs/mine",
    "keep": "trainer keep runs/landcover --out trainer/weights/mine",
    "familiarity": "trainer familiarity models/mine --like dubai-lite",
    "soften": "trainer soften --config trainer/configs/landcover.yaml --teacher runs/teacher --gsd 0.7",
    "dinov2": "trainer dinov2 dinov2.onnx --out runs/dinov2-small",
    "places": "trainer places runs/landcover",
    "biases": "trainer biases runs/landcover --head deepglobe --every 2",
    "source-teacher": "trainer source-teacher --config trainer/configs/study-teacher.yaml --run runs/sam --out teacher",
    "ablate": "trainer ablate --config trainer/configs/study.yaml --work out/study --results docs/study/arms",
    "export": "trainer export --run runs/deepglobe --out models --name deepglobe",
    "join": "trainer join models/both --head=cover=models/cover --head=crops=models/crops --name both",
    "extract": "trainer extract landcover deepglobe --name mine-deepglobe --out models",
    "evaluate": "trainer evaluate --model engines/shipped/dubai-lite --bootstrap",
    "profile": "trainer profile --model dubai-lite --paper",
}


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="trainer", description="Trains, exports and measures models, on the ground.")
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (tiles, mosaics, labels, training, keep, exporting, packaging, measuring):
        group.add_to(commands)
    add_examples(commands, EXAMPLES)
    return parser


if __name__ == "__main__":
    sys.exit(main())
