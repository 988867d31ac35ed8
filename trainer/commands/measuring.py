"""Commands that measure a model: evaluate, places, biases, profile."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.arguments import bias_of, check_target, folder_and_names, positive_number, whole_number_from
from trainer.errors import SettingsRefused

if TYPE_CHECKING:
    from trainer.evaluate.places import PlacesSettings

CONFIGS = Path(__file__).parents[1] / "configs"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds their parsers."""
    _add_evaluate(commands.add_parser("evaluate", help="measure accuracy on whole scenes, mapped as aboard"))
    _add_places(commands.add_parser("places", help="measure accuracy place by place, of a run or of a packaged model"))
    _add_biases(commands.add_parser("biases", help="fit a bias for each class of a head, for `export --bias`"))
    _add_profile(commands.add_parser("profile", help="count parameters, FLOPs, memory and bytes moved of networks"))


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="shipped name or model folder")
    parser.add_argument("--head", help="of a model with heads (default: its first)")
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
    parser.add_argument("--threads", type=whole_number_from(1), help="of the engine")
    parser.add_argument("--out", type=Path, help="write evaluation.json, evaluation.md and confusion.png here")
    parser.add_argument(
        "--bootstrap", type=whole_number_from(0), nargs="?", const=1000, default=0, metavar="DRAWS",
        help="95 %% intervals by resampling blocks (1000 draws)",
    )  # fmt: skip
    parser.add_argument("--seed", type=whole_number_from(0), default=0, help="of the bootstrap")
    parser.add_argument(
        "--record", metavar="NAME", help="write the figures so named into the model's manifest and card"
    )
    parser.add_argument("--remark", default="", help="with --record: what must be known beside the figures")
    parser.set_defaults(run=_evaluate)


def _add_places(places: argparse.ArgumentParser) -> None:
    places.add_argument("which", type=Path, metavar="RUN|MODEL", help="run folder of a finetuning, or model folder")
    places.add_argument("--config", type=Path, default=CONFIGS / "places.yaml", help="places (default: places.yaml)")
    places.add_argument(
        "--bias", action="append", default=[], metavar="HEAD:CLASS=LOGITS",
        help="of a run: what to add to a class's logits, as `trainer export --bias` would; may be repeated",
    )  # fmt: skip
    places.add_argument("--gsd", type=positive_number, help="bring images to this many metres a pixel first")
    places.add_argument("--only", nargs="+", metavar="WORD", help="places whose names hold one of these words")
    places.add_argument("--backend", default="onnxruntime", help="of a packaged model (default: onnxruntime)")
    places.add_argument("--threads", type=whole_number_from(1), help="number of threads")
    places.add_argument("--out", type=Path, help="also write the figures as JSON")
    places.add_argument("--record", action="store_true", help="write them into the model's manifest and card")
    places.set_defaults(run=_places)


def _add_biases(biases: argparse.ArgumentParser) -> None:
    biases.add_argument("which", type=Path, metavar="RUN", help="run folder of a finetuning")
    biases.add_argument(
        "--config", type=Path, default=CONFIGS / "places-biases.yaml",
        help="places to fit on: of training, never those that report the accuracy (default: places-biases.yaml)",
    )  # fmt: skip
    biases.add_argument("--head", required=True, help="whose classes")
    biases.add_argument(
        "--every", type=whole_number_from(1), default=1, metavar="N", help="take every N-th image (default: 1)"
    )
    biases.set_defaults(run=_biases)


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--paper", action="store_true", help="the paper's student and decoder, beside its own figures")
    parser.add_argument("--model", action="append", default=[], help="shipped name or model folder; may be repeated")
    parser.add_argument("--config", type=Path, action="append", default=[], help="YAML with a `model`; likewise")
    parser.add_argument(
        "--tile", type=whole_number_from(1), default=1024, help="pixels a side, of --paper and --config (default: 1024)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    parser.set_defaults(run=_profile)


def _evaluate(options: argparse.Namespace) -> None:
    from engines.manifest import Manifest
    from engines.open import manifest_path
    from trainer.data.sets import open_set
    from trainer.evaluate.bootstrap import block_bootstrap
    from trainer.evaluate.evaluation import evaluate, evaluation_row, has_labels, with_evaluation
    from trainer.evaluate.report import Report
    from trainer.export.card import write_card

    labelled = open_set(options.set, options.root)
    folds = [folder_and_names(fold) for fold in options.fold]
    # As text: a shipped name is not looked for among folders.
    models = [(manifest_path(str(folder)).parent, labelled.named(names)) for folder, names in folds]
    model = manifest_path(options.model).parent
    if not models:
        names = labelled.named(options.names) if options.names else labelled.split(options.split)
        models = [(model, names)]
    # Mapping takes hours. An evaluation that can record nothing is refused before it.
    if options.record and not has_labels(labelled, (name for _, names in models for name in names)):
        raise SettingsRefused("--record", f"no pixel of these images of {labelled.name} is labelled: no figures")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)  # what cannot be is told before hours of mapping, not after
    heads = () if options.head is None else (options.head,)
    evaluated = evaluate(models, labelled, threads=options.threads, heads=heads)
    versions = {(manifest := Manifest.load(folder)).name: manifest.version for folder, _ in models}
    # From the manifests and not the folders: the figures stand under name and version.
    report = Report(
        model=", ".join(" ".join([name, version, *heads]) for name, version in versions.items()),
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
        manifest = with_evaluation(Manifest.load(model).with_heads(heads), row)
        manifest.save(model)
        write_card(manifest, model)


def _split_in_words(options: argparse.Namespace) -> str:
    if options.fold:
        return "images held out in turn"
    return ", ".join(options.names) if options.names else f"split {options.split}"


def _places(options: argparse.Namespace) -> None:
    from engines.manifest import Manifest
    from trainer.config import read_settings
    from trainer.evaluate.mappers import head_of_model, mapper_of_model, mapper_of_run
    from trainer.evaluate.places import (
        PlacesSettings,
        places_json,
        places_table,
        record_places,
        score_heads,
        score_places,
    )

    settings = read_settings(options.config, PlacesSettings)
    if options.only and options.record:
        raise SettingsRefused(
            "--record", "it replaces the figures of all places, and --only measures some: leave --only out, or give a "
            "--config with the places to record"
        )  # fmt: skip
    if options.only:
        settings = _only(settings, options.only)
    if options.out is not None:
        check_target(options.out)
    packaged = (options.which / "manifest.json").is_file()
    if options.bias and packaged:
        raise SettingsRefused("--bias", f"{options.which} is a model folder, which has its biases: export the run anew")
    if options.record and not packaged:
        raise SettingsRefused("--record", f"{options.which} is no model folder: export the run first")
    if packaged and Manifest.load(options.which).head_names:
        scores = score_heads(
            settings, options.which, gsd_m=options.gsd, threads=options.threads, backend=options.backend
        )
    elif packaged:
        head = head_of_model(options.which, settings.heads)
        with mapper_of_model(options.which, head, threads=options.threads, backend=options.backend) as mapper:
            scores = score_places(settings, mapper, gsd_m=options.gsd)
    else:
        heads = dict.fromkeys(given.partition(":")[0] for given in options.bias)
        bias = {head: bias_of(options.bias, head) for head in heads}
        scores = score_places(settings, mapper_of_run(options.which, settings.heads, bias), gsd_m=options.gsd)
    if not scores:
        # A mean of nothing is "not a number", in the table and in the JSON.
        raise SettingsRefused(str(options.config), f"{options.which} has the head of none of its places: no figure")
    print(places_table(scores))
    if options.record:
        record_places(options.which, scores)
    if options.out is not None:
        options.out.write_text(places_json(scores))


def _only(settings: PlacesSettings, words: Sequence[str]) -> PlacesSettings:
    """The places whose names hold one of the words, in upper or lower case.

    Raises:
        SettingsRefused: a word is in no name.
    """
    names = [place.name.lower() for place in settings.places]
    if unknown := [word for word in words if not any(word.lower() in name for name in names)]:
        there = "; ".join(dict.fromkeys(place.name for place in settings.places))  # names have commas
        raise SettingsRefused("--only", f"no place has {unknown[0]!r} in its name; there are {there}")
    chosen = [place for place in settings.places if any(word.lower() in place.name.lower() for word in words)]
    return settings.model_copy(update={"places": tuple(chosen)})


def _biases(options: argparse.Namespace) -> None:
    from trainer.config import read_settings
    from trainer.evaluate.biases import fit_biases, read_logits
    from trainer.evaluate.places import PlacesSettings

    settings = read_settings(options.config, PlacesSettings)
    fitted = fit_biases(read_logits(settings, options.which, options.head, every=options.every))
    print("| place | images | mean IoU | with biases | IoU of each class with them |\n|---|---|---|---|---|")
    for before, after in zip(fitted.before, fitted.after, strict=True):
        each = ", ".join(f"{name} {before.iou[name]:.3f} to {value:.3f}" for name, value in after.iou.items())
        print(f"| {before.place} | {before.images} | {before.figure:.3f} | {after.figure:.3f} | {each} |")
    if not any(fitted.biases.values()):
        print("\nno bias helps")
        return
    print(f"\ntrainer export with --heads: {fitted.options(of_heads=True)}")
    print(f"trainer export of this head alone: {fitted.options(of_heads=False)}")


def _profile(options: argparse.Namespace) -> None:
    from engines.open import manifest_path
    from trainer.models.segmenter import PAPER_SEGMENTER
    from trainer.profile.network import profile_of, settings_from_yaml
    from trainer.profile.onnx_graph import profiles_of_folder
    from trainer.profile.table import as_json, table

    # A folder that is not there is told before anything is counted.
    for path in filter(None, (options.markdown, options.json)):
        check_target(path)
    profiles = [profile_of(PAPER_SEGMENTER, name="paper, rebuilt", tile=options.tile)] if options.paper else []
    profiles += [profile for model in options.model for profile in profiles_of_folder(manifest_path(model).parent)]
    profiles += [profile_of(settings_from_yaml(file), name=file.stem, tile=options.tile) for file in options.config]
    if not profiles:
        raise SettingsRefused("profile", "nothing to count: give --paper, --model or --config")
    text = table(profiles, published=options.paper)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        options.json.write_text(as_json(profiles))
