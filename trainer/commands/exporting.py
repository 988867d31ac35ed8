"""`trainer export`: a run as a model, its heads as a model with heads, or one head for a model that exists."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.arguments import (
    bias_of,
    folder_and_names,
    is_number,
    positive_number,
    print_lost_sides,
    print_made,
    text_of,
    whole_number_from,
)
from trainer.errors import SettingsRefused

# For types alone. Commands import what they need when they run:
# `--help` and a mistyped option load neither torch nor rasterio.
if TYPE_CHECKING:
    from trainer.export.package import CalibrationRun, FamiliarityImages, PackageRequest
    from trainer.models.deploy import DeploySettings

SHIPPED = Path("engines/shipped")
DESCRIPTION = "Land cover of very high resolution RGB imagery."
CELLS = (1, 2, 4, 8, 16)
"""Sides that divide a tile."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds its parser."""
    _add_export(commands.add_parser("export", help="write a run's averaged weights as a model: ONNX, manifest, card"))


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, dest="folder", help="run folder of a finetuning")
    parser.add_argument(
        "--out", type=Path,
        help="the model appears in OUT/NAME/ and replaces one that is there (default: engines/shipped, where none is "
        "replaced; of --head-of, in its place)",
    )  # fmt: skip
    parser.add_argument("--name", help="of the model: lower case, no spaces")
    parser.add_argument("--version", help="(default: 1.0.0)")
    parser.add_argument("--description", help=f"in a sentence (default: {DESCRIPTION})")
    parser.add_argument("--notes", type=Path, help="markdown for the card: what no figure says")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "fp16", "int8", "int8-fp16"), default=["fp32"], dest="precisions",
        help="FP32 to OUT/NAME/, others to OUT/NAME-fp16/ and so on; INT8 leaves the rest in FP32 (CPU) or FP16 (GPU) "
        "(default: fp32)",
    )  # fmt: skip
    _add_heads_arguments(parser)
    parser.add_argument(
        "--gsd", type=positive_number, metavar="METRES",
        help="a pixel: at which scenes outside of --gsd-range are read (default: that of the run's crops)",
    )  # fmt: skip
    parser.add_argument(
        "--gsd-range", type=positive_number, nargs=2, metavar=("LOW", "HIGH"),
        help="metres a pixel at which the model was tested",
    )  # fmt: skip
    parser.add_argument("--terms", default="", help="what the training data's terms allow, in plain words")
    parser.add_argument(
        "--prior", action="append", default=[], metavar="[HEAD=]LOGITS",
        help="how much a neighbourhood of one class adds for that class; smooths borders; 0 keeps thin roads "
        "(default: 4)",
    )  # fmt: skip
    parser.add_argument(
        "--cell", action="append", default=[], metavar="[HEAD=]PIXELS",
        help="side of the squares that get one class, 1, 2, 4, ...; larger ones cost less aboard (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--bias", action="append", default=[], metavar="[HEAD:]CLASS=LOGITS",
        help="added to a class's logits, under 0 where a false alarm costs more than a miss; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--no-confidence", action="store_false", dest="confidence", help="without the output of confidence"
    )
    parser.add_argument(
        "--twin", action="store_true", help="also write a file of the same weights that gives probabilities"
    )
    parser.add_argument(
        "--calibrate", action="append", default=[], metavar="[HEAD@]RUN=[SET:]NAME,NAME",
        help="fit the confidence's temperature on these images (of another labelled set: its name before a colon) by "
        "the weights of this run, best one fitted without them; with --heads, of the head named; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--familiarity", nargs="+", default=[], metavar="SET:NAME,NAME",
        help="also give the output that says how like its training imagery a tile is, fitted on these images",
    )  # fmt: skip
    parser.add_argument(
        "--familiarity-holdout", nargs="+", default=[], metavar="SET:NAME,NAME",
        help="known places that set its scale (default: each image of --familiarity is left out in turn)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-tiles", type=whole_number_from(1), default=4, metavar="N", help="of each scene (default: 4)"
    )
    parser.add_argument("--threads", type=whole_number_from(1), help="of PyTorch")
    parser.set_defaults(run=_export)


def _add_heads_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--head", help="which head of a run of several (default: the first); with --head-of, its name")
    parser.add_argument(
        "--heads", nargs="*", metavar="HEAD",
        help="a model with heads: these of the run, in this order (default: all); the first is used unless others are "
        "asked for",
    )  # fmt: skip
    parser.add_argument(
        "--head-of", type=Path, metavar="MODEL",
        help="add the head to this model with heads, or replace the one of its name, on the same encoder",
    )  # fmt: skip
    parser.add_argument("--head-description", action="append", default=[], metavar="HEAD=TEXT", help="with --heads")
    parser.add_argument("--head-notes", action="append", default=[], metavar="HEAD=FILE", help="with --heads: markdown")


def _export(options: argparse.Namespace) -> None:
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.head_of is not None:
        _export_head(options)
    elif options.heads is not None:
        _export_heads(options)
    else:
        _export_one(options)


def _export_one(options: argparse.Namespace) -> None:
    from trainer.export.package import golden_landscape, package

    # Refused and not ignored: a text that is quietly dropped is missed on the card much later.
    for option in ("head_description", "head_notes"):
        if getattr(options, option):
            raise SettingsRefused(f"--{option.replace('_', '-')}", "it is for --heads; give --description, --notes")
    request = replace(
        _new_model(options),
        golden_tile=golden_landscape(), head=options.head, deploy=_deploy_of(options, None), twin=options.twin,
        calibration=tuple(map(_calibration_run, options.calibrate)),
    )  # fmt: skip
    print_made({request.out / made.name: made for made in package(request)})


def _export_heads(options: argparse.Namespace) -> None:
    from trainer.export.package import golden_landscape
    from trainer.export.package_heads import HeadOptions, heads_of_run, package_heads

    if options.head is not None:
        raise SettingsRefused("--head", "it is one head, and --heads are several; give one of the two")
    request = replace(_new_model(options), twin=options.twin)
    names = heads_of_run(options.folder, options.heads)
    calibration: dict[str, list[CalibrationRun]] = {name: [] for name in names}
    for given in options.calibrate:
        head, at, rest = given.partition("@")
        if not at or head not in names:
            raise SettingsRefused(
                "--calibrate", f"{given}: with --heads, give HEAD@RUN=NAMES, HEAD one of {', '.join(names)}"
            )
        calibration[head].append(_calibration_run(rest))
    descriptions = _by_head(options.head_description, "--head-description", names)
    notes = _by_head(options.head_notes, "--head-notes", names)
    # Only to refuse heads that are not there; the values are read for each head below.
    for option in ("prior", "cell"):
        _by_head([given for given in getattr(options, option) if "=" in given], f"--{option}", names)
    if unknown := [given for given in options.bias if given.partition(":")[0] not in names]:
        raise SettingsRefused("--bias", f"{unknown[0]}: give HEAD:CLASS=LOGITS, HEAD one of {', '.join(names)}")
    heads = {
        name: HeadOptions(
            _deploy_of(options, name), tuple(calibration[name]), descriptions.get(name, ""),
            text_of(Path(notes[name])) if name in notes else "",
        )
        for name in names
    }  # fmt: skip
    # Made last: everything that the command line can get wrong is known by now.
    made = package_heads(replace(request, golden_tile=golden_landscape()), heads)
    print_made({request.out / manifest.name: manifest for manifest in made})


def _export_head(options: argparse.Namespace) -> None:
    from engines.manifest import Manifest
    from engines.open import manifest_path
    from trainer.export.package_heads import package_head

    for option, given in (
        ("--heads", options.heads), ("--name", options.name), ("--familiarity", options.familiarity or None),
        ("--twin", options.twin or None), ("--precision", None if options.precisions == ["fp32"] else True),
        ("--gsd", options.gsd),
        ("--gsd-range", options.gsd_range),
    ):  # fmt: skip
        if given is not None:
            raise SettingsRefused(option, "with --head-of it is the model's own: leave it out")
    if options.head is None or options.version is None:
        raise SettingsRefused("--head-of", "give --head NAME, the head's name, and --version, the changed model's")
    model = manifest_path(str(options.head_of)).parent
    request = replace(
        _package_request(options, model.name),
        out=options.out or model.parent, description=options.description or "", deploy=_deploy_of(options, None),
        calibration=tuple(map(_calibration_run, options.calibrate)),
    )  # fmt: skip
    sides = Manifest.load(model / "manifest.json").input.sides
    made = package_head(request, model, options.head)
    print_made({request.out / model.name: made})
    print_lost_sides(sides, made)


def _package_request(options: argparse.Namespace, name: str) -> PackageRequest:
    """What all three ways of exporting have in common."""
    from trainer.export.package import PackageRequest

    return PackageRequest(
        run=options.folder,
        out=options.out or SHIPPED,
        name=name,
        version=options.version or "1.0.0",
        description=DESCRIPTION if options.description is None else options.description,
        notes=text_of(options.notes) if options.notes else "",
        precisions=tuple(options.precisions),
        calibration_tiles=options.calibration_tiles,
        gsd_m=options.gsd,
        gsd_range_m=tuple(options.gsd_range) if options.gsd_range else None,
        terms=options.terms,
        familiarity=_familiarity_images(options),
    )


def _new_model(options: argparse.Namespace) -> PackageRequest:
    """Of a model under a name of its own, with what is known to go wrong refused before the golden tile is made.

    Raises:
        SettingsRefused: there is no name, a folder of it would be replaced unasked, or as check_request.
        CheckpointRefused: as check_request.
    """
    from trainer.export.package import check_request

    if options.name is None:
        raise SettingsRefused("--name", "the model needs one: lower-case letters, digits and _ . -")
    request = _package_request(options, str(options.name))
    check_request(request)
    if options.out is None:
        # The default folder holds the shipped models, one of which is the default of all commands.
        there = [request.out / request.folder_name(precision) for precision in request.precisions]
        if there := [folder for folder in there if folder.exists()]:
            raise SettingsRefused("--name", f"{there[0]} is there already; give another one, or --out FOLDER")
    return request


def _by_head(given: Sequence[str], option: str, names: Sequence[str]) -> dict[str, str]:
    """HEAD=VALUE, each head once.

    Raises:
        SettingsRefused: it is not of that form, or there is no such head.
    """
    values: dict[str, str] = {}
    for item in given:
        head, sign, value = item.partition("=")
        if not sign or head not in names:
            raise SettingsRefused(option, f"{item}: give HEAD=VALUE, HEAD one of {', '.join(names)}")
        if head in values:
            raise SettingsRefused(option, f"{head} is given twice")
        values[head] = value
    return values


def _calibration_run(given: str) -> CalibrationRun:
    """RUN=[SET:]NAME,NAME."""
    from trainer.export.package import CalibrationRun

    folder, names = folder_and_names(given)
    # The set stands before the first name alone, and counts for all.
    first, colon, rest = names[0].rpartition(":")
    return CalibrationRun(folder, (rest, *names[1:]), first if colon else None)


def _familiarity_images(options: argparse.Namespace) -> FamiliarityImages | None:
    from trainer.export.package import FamiliarityImages
    from trainer.familiarity.imagery import Images

    if not options.familiarity:
        if options.familiarity_holdout:
            raise SettingsRefused("--familiarity-holdout", "nothing is fitted: give --familiarity SET:NAME,NAME")
        return None
    fit, holdout = (tuple(map(Images.parsed, given)) for given in (options.familiarity, options.familiarity_holdout))
    return FamiliarityImages(fit, holdout, in_turn=not holdout)


def _deploy_of(options: argparse.Namespace, head: str | None) -> DeploySettings:
    """How the logits of a head become classes; of a model of one graph with None."""
    from trainer.models.deploy import DeploySettings

    prior = _own_or_common(options.prior, "--prior", head) or "4"
    cell = _own_or_common(options.cell, "--cell", head) or "2"
    # "nan" and "inf" are numbers to Python.
    if not is_number(prior) or not 0 <= float(prior) < math.inf:
        raise SettingsRefused("--prior", f"{prior} is no number of logits; give 0 or more")
    if not cell.isdecimal() or int(cell) not in CELLS:
        raise SettingsRefused("--cell", f"{cell} is no side of a cell; give one of {', '.join(map(str, CELLS))} pixels")
    return DeploySettings(
        confidence=options.confidence, prior=float(prior), cell=int(cell), bias=bias_of(options.bias, head)
    )


def _own_or_common(given: Sequence[str], option: str, head: str | None) -> str | None:
    """The last value for this head, else the last for all."""
    common = [item for item in given if "=" not in item]
    own = [item.partition("=")[2] for item in given if item.partition("=")[0] == head and "=" in item]
    if head is None and len(common) < len(given):
        raise SettingsRefused(option, "HEAD=VALUE is for --heads; give the value alone")
    return (common + own)[-1] if common or own else None
