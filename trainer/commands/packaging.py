"""Commands that put models together, take them apart, or add to one: join, extract, familiarity."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.commands.arguments import positive_number, print_lost_sides, print_made, text_of, whole_number_from
from trainer.errors import SettingsRefused


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds their parsers."""
    _add_join(commands.add_parser("join", help="make one model with heads of several models of one encoder"))
    _add_extract(commands.add_parser("extract", help="make a model of some heads of a model: the same files"))
    _add_familiarity(
        commands.add_parser("familiarity", help="add an output to a model: how like its training imagery a tile is")
    )


def _add_join(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the model; replaced where it exists")
    parser.add_argument(
        "--head", action="append", required=True, metavar="NAME=FOLDER",
        help="a head and the model of one graph that it comes from; repeated; the first gives encoder and familiarity",
    )  # fmt: skip
    parser.add_argument("--name", required=True, help="of the model: lower case, no spaces")
    parser.add_argument("--version", default="1.0.0", help="(default: 1.0.0)")
    parser.add_argument("--description", default="", help="in a sentence")
    parser.add_argument("--notes", type=Path, help="markdown for the card")
    parser.set_defaults(run=_join)


def _add_extract(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="shipped name or folder of a model with heads")
    parser.add_argument("heads", nargs="+", metavar="HEAD", help="the first is used unless others are asked for")
    parser.add_argument("--name", required=True, help="of the model that is made: lower case, no spaces")
    parser.add_argument("--out", type=Path, required=True, help="it appears in OUT/NAME/, and replaces one there")
    parser.add_argument(
        "--gsd-range", type=positive_number, nargs=2, metavar=("LOW", "HIGH"),
        help="metres a pixel at which these heads were tested (default: those of the model)",
    )  # fmt: skip
    parser.set_defaults(run=_extract)


def _add_familiarity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder; it is changed in place")
    parser.add_argument(
        "--fit", nargs="+", default=[], metavar="SET:NAME,NAME", help="training imagery, by set and names or globs"
    )
    parser.add_argument("--holdout", nargs="+", default=[], metavar="SET:NAME,NAME", help="known places not fitted on")
    parser.add_argument("--in-turn", action="store_true", help="instead: hold each image of --fit out in turn")
    parser.add_argument(
        "--like", type=Path, metavar="MODEL", help="instead: take over that of this precision of the same network"
    )
    parser.add_argument("--features", nargs="+", default=[], metavar="TENSOR", help="of the encoder (default: found)")
    parser.add_argument("--most", type=whole_number_from(1), default=200, help="tiles of each entry (default: 200)")
    parser.add_argument("--version", help="of the model from now on")
    parser.add_argument("--threads", type=whole_number_from(1), help="of the engine")
    parser.set_defaults(run=_familiarity)


def _join(options: argparse.Namespace) -> None:
    from engines.manifest import Manifest
    from engines.open import manifest_path
    from trainer.export.join import join_heads

    folders: dict[str, Path] = {}
    for given in options.head:
        name, _, folder = given.partition("=")
        if not name or not folder:
            raise SettingsRefused("--head", f"{given}: give NAME=FOLDER, the head's name and a model of one graph")
        # argparse takes an option twice without a word, and a dict would keep the last.
        if name in folders:
            raise SettingsRefused("--head", f"{name} is given twice")
        folders[name] = manifest_path(folder).parent
    notes = text_of(options.notes) if options.notes else ""
    join_heads(
        folders, options.out, name=options.name, version=options.version, description=options.description, notes=notes
    )
    made = Manifest.load(options.out)
    print_made({options.out: made})
    print_lost_sides([side for folder in folders.values() for side in Manifest.load(folder).input.sides], made)


def _extract(options: argparse.Namespace) -> None:
    from engines.open import manifest_path
    from trainer.export.extract import extract_heads

    model, out = manifest_path(options.model).parent, options.out / options.name
    gsd_range = tuple(options.gsd_range) if options.gsd_range else None
    print_made({out: extract_heads(model, options.heads, out, name=options.name, gsd_range_m=gsd_range)})


def _familiarity(options: argparse.Namespace) -> None:
    from engines.open import manifest_path
    from trainer.export.package import check_version
    from trainer.familiarity.fit import FamiliarityRequest, add_familiarity, carry_over
    from trainer.familiarity.imagery import Images

    folder = manifest_path(str(options.model)).parent
    if options.version is not None:
        check_version(options.version)
    if options.like is not None:
        if options.fit or options.holdout or options.in_turn:
            raise SettingsRefused("--like", "it takes over what was fitted: leave --fit, --holdout and --in-turn out")
        # Nothing is fitted: statistics are of the network, and precisions of one network share them.
        manifest = carry_over(folder, manifest_path(str(options.like)).parent, version=options.version)
    else:
        request = FamiliarityRequest(
            folder,
            tuple(map(Images.parsed, options.fit)),
            tuple(map(Images.parsed, options.holdout)),
            in_turn=options.in_turn,
            features=tuple(options.features),
            most=options.most,
            version=options.version,
            threads=options.threads,
        )
        manifest = add_familiarity(request, report=print)
    if (facts := manifest.familiarity) is not None:
        wrongly = f"{facts.wrongly_unfamiliar:.1%} of {facts.held_out_tiles} held-out tiles below {facts.threshold:g}"
        print(f"{folder}: {wrongly}; sha256 {manifest.model.sha256}")
