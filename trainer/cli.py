"""`trainer`: distill, finetune, export, evaluate, profile."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import DataRefused, SettingsRefused, TrainerError
from trainer.log_lines import StdoutHandler

if TYPE_CHECKING:
    from trainer.config import AnySettings
    from trainer.package import CalibrationRun, FamiliarityImages


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build one settings object, call one function; one line on stderr when it cannot."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[StdoutHandler()])
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL cannot read is told by us, once
    from engines.errors import EngineError
    from engines.reader_gone import reader_gone
    from onboard.errors import OnboardError

    try:
        options.run(options)
        sys.stdout.flush()
    except (TrainerError, EngineError, OnboardError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (missing := _missing(error)) is None:
            raise
        print(f"trainer: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("trainer: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return reader_gone()
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
    told = (error.strerror or str(error)).lower()
    return told if error.filename is None else f"{error.filename}: {told}"


def _at_least(least: int) -> Callable[[str], int]:
    """A type of argparse."""

    def number(given: str) -> int:
        if (value := int(given)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    number.__name__ = "whole number"  # argparse tells it of what is no number
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainer", description="How a model is made, on the ground.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_tiles(commands.add_parser("tiles", help="unlabelled tiles in shards, from imagery of any size"))
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

    _add_familiarity(
        commands.add_parser("familiarity", help="add an output to a model: how like its training imagery a tile is")
    )
    soften = commands.add_parser("soften", help="a teacher's soft labels for all sets of a configuration")
    soften.add_argument("--config", type=Path, required=True, help="whose `data.sets` say where soft labels go")
    soften.add_argument("--teacher", type=Path, required=True, help="run folder of a finished finetuning")
    soften.add_argument("--gsd", type=float, nargs="+", default=[0.8], help="metres a pixel at which images are seen")
    soften.add_argument("--quiet", action="store_true")
    soften.set_defaults(run=_soften)

    places = commands.add_parser("places", help="accuracy place by place, of a run or of a packaged model")
    places.add_argument("which", type=Path, metavar="RUN|MODEL", help="run folder of a finetuning, or model folder")
    places.add_argument("--config", type=Path, default=Path(__file__).parent / "configs" / "places.yaml")
    places.add_argument("--gsd", type=float, help="bring images to this many metres a pixel first")
    places.add_argument("--only", nargs="+", metavar="WORD", help="places whose names hold one of these words")
    places.add_argument("--backend", default="onnxruntime", help="of a packaged model")
    places.add_argument("--threads", type=int)
    places.add_argument("--out", type=Path, help="also write the figures as JSON")
    places.add_argument("--record", action="store_true", help="write them into the model's manifest and card")
    places.set_defaults(run=_places)
    teach = commands.add_parser("source-teacher", help="a SAM-shaped teacher of one's own, for the study")
    _add_run(teach)
    teach.add_argument("--out", type=Path, required=True, help="folder of the encoder, as transformers saves it")
    teach.set_defaults(run=_source_teacher)
    ablate = commands.add_parser("ablate", help="a matrix of distillations and decoders, one table")
    ablate.add_argument("--config", type=Path, required=True, help="YAML, see trainer/configs")
    ablate.add_argument("--work", type=Path, required=True, help="checkpoints and pictures; taken up if there are any")
    ablate.add_argument("--results", type=Path, required=True, help="rows, table and pictures: small files to keep")
    ablate.add_argument("--table-only", action="store_true", help="run nothing, make the table of the rows there are")
    ablate.add_argument("--past-gate", action="store_true", help="run the other arms though the gate is not passed")
    ablate.add_argument(
        "--arms", nargs="+", default=(), metavar="ARM",
        help="only these, whatever the gate says: several processes share a matrix, each with arms of its own",
    )  # fmt: skip
    ablate.set_defaults(run=_ablate)
    _add_export(commands.add_parser("export", help="a run's averaged weights to a model folder: ONNX, manifest, card"))
    _add_evaluate(commands.add_parser("evaluate", help="accuracy on whole scenes, mapped by the flying pipeline"))
    _add_profile(commands.add_parser("profile", help="parameters, FLOPs, memory and bytes moved of networks"))
    return parser


def _add_tiles(parser: argparse.ArgumentParser) -> None:
    from trainer.tiles.settings import TileSettings

    usual = TileSettings()
    parser.add_argument("sources", nargs="+", type=Path, help="GeoTIFFs, JPEGs and PNGs, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of shards; a killed run is taken up")
    parser.add_argument("--size", type=int, default=usual.size, help="side of a tile in pixels")
    parser.add_argument("--stride", type=int, default=usual.stride, help="pixels from tile to tile; 0: the size")
    parser.add_argument("--shard-tiles", type=int, default=usual.shard_tiles, help="tiles in a shard")
    parser.add_argument("--quality", type=int, default=usual.quality, help="of the JPEGs, 1 to 100")
    parser.add_argument("--most-invalid", type=float, default=usual.most_invalid, help="share without data, 0 to 1")
    parser.add_argument(
        "--least-deviation", type=float, default=usual.least_deviation, help="under it a tile is blank, 0 to 255"
    )
    parser.add_argument(
        "--most-alike", type=int, default=usual.most_alike,
        help="bits of 64 that near-duplicates may differ in; -1 keeps all",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=_tiles)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="YAML, see trainer/configs")
    parser.add_argument(
        "--run", "--run-folder", type=Path, required=True, dest="folder",
        help="run folder; taken up if there is one (under torchrun say --run-folder: it takes --run for its own)",
    )  # fmt: skip
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
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "fp16", "int8", "int8-fp16"), default=["fp32"], dest="precisions",
        help="FP32 to OUT/NAME/, others to OUT/NAME-fp16/ and so on; INT8 leaves the rest in FP32 (CPU) or FP16 (GPU)",
    )  # fmt: skip
    parser.add_argument("--head", help="which head of a run of several (default: the first)")
    parser.add_argument(
        "--gsd-range", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="metres a pixel that the model was tested at",
    )  # fmt: skip
    parser.add_argument("--terms", default="", help="what the training data's terms allow, in plain words")
    parser.add_argument("--no-confidence", action="store_false", dest="confidence", help="classes are the only output")
    parser.add_argument("--twin", action="store_true", help="also a file of the same weights that gives probabilities")
    parser.add_argument(
        "--calibrate", action="append", default=[], metavar="RUN=[SET:]NAME,NAME",
        help="fit the confidence's temperature on these images (of another labelled set: its name before a colon) by "
        "the weights of this run, best one fitted without them; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--familiarity", nargs="+", default=[], metavar="SET:NAME,NAME",
        help="also give the output that says how like its training imagery a tile is, fitted on these images",
    )  # fmt: skip
    parser.add_argument(
        "--familiarity-holdout", nargs="+", default=[], metavar="SET:NAME,NAME",
        help="known places that set its scale (default: each image of --familiarity is left out in turn)",
    )  # fmt: skip
    parser.add_argument("--calibration-tiles", type=int, default=4, metavar="N", help="of each scene (default: 4)")
    parser.add_argument("--threads", type=_at_least(1), help="of PyTorch")
    parser.set_defaults(run=_export)


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
    parser.add_argument("--most", type=_at_least(1), default=200, help="tiles of each entry (default: 200)")
    parser.add_argument("--version", help="of the model from now on")
    parser.add_argument("--threads", type=_at_least(1))
    parser.set_defaults(run=_familiarity)


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
    parser.add_argument("--threads", type=_at_least(1), help="of the engine")
    parser.add_argument("--out", type=Path, help="write evaluation.json, evaluation.md and confusion.png here")
    parser.add_argument(
        "--bootstrap", type=_at_least(0), nargs="?", const=1000, default=0, metavar="DRAWS",
        help="95 %% intervals by resampling blocks (1000 draws)",
    )  # fmt: skip
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of the bootstrap")
    parser.add_argument(
        "--record", metavar="NAME", help="write the figures so named into the model's manifest and card"
    )
    parser.add_argument("--remark", default="", help="with --record: what must be known beside the figures")
    parser.set_defaults(run=_evaluate)


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--paper", action="store_true", help="the paper's student and decoder, beside its own figures")
    parser.add_argument(
        "--model", action="append", default=[], help="shipped name or model folder; may be given again"
    )
    parser.add_argument("--config", type=Path, action="append", default=[], help="YAML with a `model`; likewise")
    parser.add_argument(
        "--tile", type=_at_least(1), default=1024, help="pixels a side, of --paper and --config (default: 1024)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    parser.set_defaults(run=_profile)


def _tiles(options: argparse.Namespace) -> None:
    from onboard.progress import progress_for
    from trainer.tiles.run import TileRequest, make_tiles
    from trainer.tiles.settings import TileSettings

    names = ("size", "stride", "shard_tiles", "quality", "most_invalid", "least_deviation", "most_alike")
    settings = TileSettings(**{name: getattr(options, name) for name in names})
    with progress_for(sys.stderr, quiet=options.quiet) as progress:
        report = make_tiles(TileRequest(tuple(options.sources), options.out, settings), progress)
    print(report.summary())


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


def _places(options: argparse.Namespace) -> None:
    from trainer.config import read_settings
    from trainer.places import (
        PlacesSettings,
        head_of_model,
        mapper_of_model,
        mapper_of_run,
        places_json,
        places_table,
        record_places,
        score_places,
    )

    settings = read_settings(options.config, PlacesSettings)
    if options.only:
        wanted = [word.lower() for word in options.only]
        kept = tuple(place for place in settings.places if any(word in place.name.lower() for word in wanted))
        settings = settings.model_copy(update={"places": kept})
    packaged = (options.which / "manifest.json").is_file()
    if options.record and not packaged:
        raise SettingsRefused("--record", f"{options.which} is no model folder: export the run first")
    if packaged:
        head = head_of_model(options.which, settings.heads)
        mapper = mapper_of_model(options.which, head, threads=options.threads, backend=options.backend)
    else:
        mapper = mapper_of_run(options.which)
    scores = score_places(settings, mapper, gsd_m=options.gsd)
    print(places_table(scores))
    if options.record:
        record_places(options.which, scores)
    if options.out is not None:
        options.out.write_text(places_json(scores))


def _soften(options: argparse.Namespace) -> None:
    from trainer.config import FinetuneSettings, read_settings
    from trainer.soften import SoftenRequest, soften

    settings = read_settings(options.config, FinetuneSettings)
    done = soften(SoftenRequest(options.teacher, settings.data.sets, tuple(options.gsd)), quiet=options.quiet)
    print(f"soft labels of {done} images written")


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
        run_matrix(settings, options.work, options.results, past_gate=options.past_gate, only=options.arms)
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


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataRefused(path, "it is no text in UTF-8", "give markdown") from None


def _calibration_run(given: str) -> CalibrationRun:
    """RUN=[SET:]NAME,NAME."""
    from trainer.package import CalibrationRun

    folder, names = _folder_and_names(given)
    first, colon, rest = names[0].rpartition(":")
    return CalibrationRun(folder, (rest, *names[1:]), first if colon else None)


def _familiarity_images(options: argparse.Namespace) -> FamiliarityImages | None:
    from trainer.familiarity.imagery import Images
    from trainer.package import FamiliarityImages

    if not options.familiarity:
        if options.familiarity_holdout:
            raise SettingsRefused("--familiarity-holdout", "nothing is fitted: give --familiarity SET:NAME,NAME")
        return None
    fit, holdout = (
        tuple(map(Images.parsed, given)) for given in (options.familiarity, options.familiarity_holdout)
    )
    return FamiliarityImages(fit, holdout, in_turn=not holdout)


def _export(options: argparse.Namespace) -> None:
    import torch

    from trainer.models.flight import FlightSettings
    from trainer.package import PackageRequest, golden_landscape, package

    if options.threads:
        torch.set_num_threads(options.threads)
    manifests = package(
        PackageRequest(
            run=options.folder,
            out=options.out,
            name=options.name,
            version=options.version,
            description=options.description,
            notes=_text_of(options.notes) if options.notes else "",
            golden_tile=golden_landscape(),
            flight=FlightSettings(confidence=options.confidence),
            precisions=tuple(options.precisions),
            twin=options.twin,
            calibration=tuple(_calibration_run(given) for given in options.calibrate),
            calibration_tiles=options.calibration_tiles,
            head=options.head,
            gsd_range_m=tuple(options.gsd_range) if options.gsd_range else None,
            terms=options.terms,
            familiarity=_familiarity_images(options),
        )
    )
    for manifest in manifests:
        print(f"{options.out / manifest.name}: {manifest.model.bytes / 1e6:.1f} MB, sha256 {manifest.model.sha256}")


def _familiarity(options: argparse.Namespace) -> None:
    from engines.open import manifest_path
    from trainer.familiarity.fit import FamiliarityRequest, add_familiarity, carry_over
    from trainer.familiarity.imagery import Images

    folder = manifest_path(str(options.model)).parent
    if options.like is not None:
        if options.fit or options.holdout or options.in_turn:
            raise SettingsRefused("--like", "it takes over what was fitted: leave --fit, --holdout and --in-turn out")
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
        manifest = add_familiarity(request, tell=print)
    if (facts := manifest.familiarity) is not None:
        wrongly = f"{facts.wrongly_unfamiliar:.1%} of {facts.held_out_tiles} held-out tiles below {facts.threshold:g}"
        print(f"{folder}: {wrongly}; sha256 {manifest.model.sha256}")


def _profile(options: argparse.Namespace) -> None:
    from engines.open import manifest_path
    from trainer.models.segmenter import PAPER_SEGMENTER
    from trainer.profile import profile_of, settings_from_yaml
    from trainer.profile_onnx import profile_of_folder
    from trainer.profile_table import as_json, table

    for path in filter(None, (options.markdown, options.json)):
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    profiles = [profile_of(PAPER_SEGMENTER, name="paper, rebuilt", tile=options.tile)] if options.paper else []
    profiles += [profile_of_folder(manifest_path(model).parent) for model in options.model]
    profiles += [profile_of(settings_from_yaml(file), name=file.stem, tile=options.tile) for file in options.config]
    if not profiles:
        raise SettingsRefused("profile", "nothing to count: give --paper, --model or --config")
    text = table(profiles, published=options.paper)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        options.json.write_text(as_json(profiles))


def _folder_and_names(given: str) -> tuple[Path, tuple[str, ...]]:
    """FOLDER=NAME,NAME.

    Raises:
        SettingsRefused: it is not of that form.
    """
    folder, _, names = given.rpartition("=")
    if not folder or not all(names.split(",")):
        raise SettingsRefused(given, "give a folder and names of images as FOLDER=NAME,NAME")
    return Path(folder), tuple(names.split(","))


def _evaluate(options: argparse.Namespace) -> None:
    from engines.manifest import Manifest
    from engines.open import manifest_path
    from trainer.bootstrap import block_bootstrap
    from trainer.card import write_card
    from trainer.data.sets import open_set
    from trainer.evaluate import evaluate, evaluation_row, has_labels, with_evaluation
    from trainer.report import Report

    labelled = open_set(options.set, options.root)
    folds = [_folder_and_names(fold) for fold in options.fold]
    models = [(manifest_path(folder).parent, labelled.named(names)) for folder, names in folds]
    model = manifest_path(options.model).parent
    if not models:
        names = labelled.named(options.names) if options.names else labelled.split(options.split)
        models = [(model, names)]
    if options.record and not has_labels(labelled, (name for _, names in models for name in names)):
        raise SettingsRefused("--record", f"no pixel of these images of {labelled.name} is labelled: no figures")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)  # what cannot be is told before hours of mapping, not after
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
        manifest = with_evaluation(Manifest.load(model), row)
        manifest.save(model)
        write_card(manifest, model)


def _split_in_words(options: argparse.Namespace) -> str:
    if options.fold:
        return "images held out in turn"
    return ", ".join(options.names) if options.names else f"split {options.split}"


if __name__ == "__main__":
    sys.exit(main())
