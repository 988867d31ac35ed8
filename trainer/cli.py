"""`trainer`: distill, finetune, export, evaluate."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import TrainerError

if TYPE_CHECKING:
    from trainer.config import AnySettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build one settings object, call one function; one line on stderr when it cannot."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    from engines.errors import EngineError
    from onboard.errors import OnboardError

    try:
        options.run(options)
    except (TrainerError, EngineError, OnboardError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainer", description="How a model is made, on the ground.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    distill = commands.add_parser("distill", help="Mask-CDKD: a student from frozen teachers, on unlabelled tiles")
    _add_run(distill)
    distill.add_argument("--tiles", type=Path, help="folder of `trainer tiles`, instead of the configuration's")
    distill.set_defaults(run=_distill)
    finetune = commands.add_parser("finetune", help="a decoder on a frozen encoder, or both, on labelled scenes")
    _add_run(finetune)
    finetune.add_argument("--encoder", type=Path, help="run folder of a distillation, whose student is taken")
    finetune.add_argument("--start-from", type=Path, help="run folder of an earlier finetuning of the same network")
    finetune.add_argument("--unfreeze", action="store_true", help="the encoder learns too")
    finetune.add_argument("--names", nargs="+", help="fit on these images, instead of the configuration's")
    finetune.set_defaults(run=_finetune)
    teach = commands.add_parser("source-teacher", help="a SAM-shaped teacher of one's own, for the study")
    _add_run(teach)
    teach.add_argument("--out", type=Path, required=True, help="folder of the encoder, as transformers saves it")
    teach.set_defaults(run=_source_teacher)
    ablate = commands.add_parser("ablate", help="a matrix of distillations and decoders, one table")
    ablate.add_argument("--config", type=Path, required=True, help="YAML, see trainer/configs")
    ablate.add_argument("--work", type=Path, required=True, help="checkpoints and pictures; taken up if there are any")
    ablate.add_argument("--results", type=Path, required=True, help="rows, table and pictures: small files to keep")
    ablate.add_argument("--table-only", action="store_true", help="run nothing, make the table of the rows there are")
    ablate.set_defaults(run=_ablate)
    _add_export(commands.add_parser("export", help="a run's averaged weights to a model folder: ONNX, manifest, card"))
    _add_evaluate(commands.add_parser("evaluate", help="accuracy on whole scenes, mapped by the flying pipeline"))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="YAML, see trainer/configs")
    parser.add_argument("--run", type=Path, required=True, dest="folder", help="run folder; taken up if there is one")
    parser.add_argument("--seed", type=int, help="instead of the configuration's; so the next ones")
    parser.add_argument("--max-minutes", type=float)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--devices", type=int, help="processes on this machine; torchrun and SLURM tell it themselves")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, dest="folder", help="run folder of a finetuning")
    parser.add_argument("--out", type=Path, default=Path("engines/shipped"), help="the model appears in OUT/NAME/")
    parser.add_argument("--name", required=True, help="of the model: lower case, no spaces")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--description", default="Land cover of very high resolution RGB imagery.")
    parser.add_argument("--notes", type=Path, help="markdown for the card: what no figure says")
    parser.set_defaults(run=_export)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument(
        "--set", default="dubai", help="labelled set: a name of trainer/sets or a YAML (default: dubai)"
    )
    parser.add_argument("--split", default="test", help="of the set (default: test)")
    parser.add_argument("--names", nargs="+", help="images by name or glob, instead of a split")
    parser.add_argument(
        "--fold", action="append", default=[], metavar="FOLDER=NAME,NAME",
        help="a model fitted without these images; given for every fold, instead of a split, pools images held out",
    )  # fmt: skip
    parser.add_argument("--root", type=Path, help="folder of the data sets (default: SHARED_DATA, ../shared/data)")
    parser.add_argument("--threads", type=int, help="of the engine")
    parser.add_argument("--out", type=Path, help="write evaluation.json, evaluation.md and confusion.png here")
    parser.add_argument(
        "--bootstrap", type=int, nargs="?", const=1000, default=0, metavar="DRAWS",
        help="95 %% intervals by resampling blocks (1000 draws)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument(
        "--record", metavar="NAME", help="write the figures so named into the model's manifest and card"
    )
    parser.add_argument("--remark", default="", help="with --record: what must be known beside the figures")
    parser.set_defaults(run=_evaluate)


def _distill(options: argparse.Namespace) -> None:
    from trainer.distill.settings import DistillSettings
    from trainer.distill.task import distill

    distill(_run_settings(options, DistillSettings, "tiles"), options.folder)


def _finetune(options: argparse.Namespace) -> None:
    from trainer.config import FinetuneSettings
    from trainer.finetune import finetune

    settings = _run_settings(options, FinetuneSettings, "encoder", "start_from")
    if options.unfreeze:
        settings = settings.model_copy(update={"frozen_encoder": False})
    if options.names:
        data = settings.data.model_copy(update={"names": tuple(options.names)})
        settings = settings.model_copy(update={"data": data})
    finetune(settings, options.folder)


def _source_teacher(options: argparse.Namespace) -> None:
    from trainer.source_teacher import SourceSettings, train_source_teacher

    figures = train_source_teacher(_run_settings(options, SourceSettings), options.folder, options.out)
    print(", ".join(f"{name} {value:.3f}" for name, value in figures.items()))


def _ablate(options: argparse.Namespace) -> None:
    from trainer.ablate.matrix import read_rows, run_matrix
    from trainer.ablate.settings import AblateSettings
    from trainer.ablate.table import write_table
    from trainer.config import read_settings

    settings = read_settings(options.config, AblateSettings)
    if not options.table_only:
        run_matrix(settings, options.work, options.results)
    print(write_table(settings, read_rows(settings, options.results), options.results))


def _run_settings(options: argparse.Namespace, kind: type[AnySettings], *more: str) -> AnySettings:
    """The configuration file, with what the command line says instead."""
    from trainer.config import read_settings

    given = {
        name: getattr(options, name)
        for name in ("seed", "max_minutes", "max_steps", *more)
        if getattr(options, name) is not None
    }
    if options.devices is not None:
        given["machine"] = {"devices": options.devices}
    return read_settings(options.config, kind, given)


def _export(options: argparse.Namespace) -> None:
    from trainer.package import PackageRequest, golden_landscape, package

    manifest = package(
        PackageRequest(
            run=options.folder,
            out=options.out,
            name=options.name,
            version=options.version,
            description=options.description,
            notes=options.notes.read_text() if options.notes else "",
            golden_tile=golden_landscape(),
        )
    )
    print(f"{options.out / manifest.name}: {manifest.model.bytes / 1e6:.1f} MB, sha256 {manifest.model.sha256}")


def _evaluate(options: argparse.Namespace) -> None:
    from engines.manifest import Manifest
    from trainer.bootstrap import block_bootstrap
    from trainer.card import write_card
    from trainer.data.sets import open_set
    from trainer.evaluate import evaluate, evaluation_row, with_evaluation
    from trainer.report import Report

    labelled = open_set(options.set, options.root)
    folds = [fold.rsplit("=", 1) for fold in options.fold]
    models = [(Path(folder), labelled.named(names.split(","))) for folder, names in folds]
    if not models:
        names = labelled.named(options.names) if options.names else labelled.split(options.split)
        models = [(options.model, names)]
    evaluated = evaluate(models, labelled, threads=options.threads)
    told = {(manifest := Manifest.load(folder)).name: manifest.version for folder, _ in models}
    report = Report(
        model=", ".join(f"{name} {version}" for name, version in told.items()),
        split=_split_in_words(options),
        evaluated=evaluated,
        intervals=block_bootstrap(evaluated.blocks, draws=options.bootstrap, seed=options.seed)
        if options.bootstrap
        else None,
    )
    print(report.text())
    if options.out:
        report.write(options.out)
    if options.record:
        row = evaluation_row(evaluated.pooled, labelled.description, split=options.record, notes=options.remark)
        manifest = with_evaluation(Manifest.load(options.model), row)
        manifest.save(options.model)
        write_card(manifest, options.model)


def _split_in_words(options: argparse.Namespace) -> str:
    if options.fold:
        return "images held out in turn"
    return ", ".join(options.names) if options.names else f"split {options.split}"


if __name__ == "__main__":
    sys.exit(main())
