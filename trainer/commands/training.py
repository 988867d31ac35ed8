"""Commands that train: distill, finetune, soften, dinov2, source-teacher, ablate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.command_line import counted
from trainer.commands.arguments import add_run_arguments, positive_number, run_settings
from trainer.errors import SettingsRefused

if TYPE_CHECKING:
    from trainer.config import DataSettings


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds their parsers."""
    distill = commands.add_parser(
        "distill", help="train a student from frozen teachers on unlabelled tiles (Mask-CDKD)"
    )
    add_run_arguments(distill)
    distill.add_argument("--tiles", type=Path, help="folder of `trainer tiles`, instead of the configuration's")
    distill.set_defaults(run=_distill)
    finetune = commands.add_parser("finetune", help="train a decoder on a frozen encoder, or both, on labelled scenes")
    add_run_arguments(finetune)
    finetune.add_argument(
        "--encoder", type=Path, help="run folder of a distillation or a finetuning: its encoder, under a new decoder"
    )
    finetune.add_argument(
        "--start-from",
        type=Path,
        help="run folder of an earlier finetuning of the same network, or of one with fewer residual blocks or no neck",
    )
    finetune.add_argument("--unfreeze", action="store_true", help="train the encoder too")
    finetune.add_argument("--set", help="labelled set, a name or the path of its YAML, instead of the configuration's")
    finetune.add_argument("--names", nargs="+", help="fit on these images of it, instead of the configuration's")
    finetune.set_defaults(run=_finetune)

    soften = commands.add_parser("soften", help="write teachers' soft labels for all sets of a configuration")
    soften.add_argument("--config", type=Path, required=True, help="whose `data.sets` say where soft labels go")
    soften.add_argument(
        "--teacher", type=Path, required=True, action="append", metavar="RUN",
        help="run folder of a finished finetuning; may be repeated: the mean over all that have a head of the first",
    )  # fmt: skip
    soften.add_argument(
        "--gsd",
        type=positive_number,
        nargs="+",
        default=[0.8],
        help="metres a pixel at which images are seen (default: 0.8)",
    )
    soften.add_argument("--quiet", action="store_true", help="no progress")
    soften.set_defaults(run=_soften)

    dinov2 = commands.add_parser(
        "dinov2",
        help="write DINOv2's weights out of an ONNX file",
        description="For `stem_weights` and for teachers of `distill`, where no hub of models can be reached: the "
        "folder that transformers would fetch, out of an ONNX file that holds the backbone.",
    )
    dinov2.add_argument("onnx", metavar="FILE", type=Path, help="exported by PyTorch; may have a head of its own")
    dinov2.add_argument("--out", type=Path, required=True, help="a new folder")
    dinov2.set_defaults(run=_dinov2)
    teach = commands.add_parser("source-teacher", help="train a teacher of SAM's shape, for the study")
    add_run_arguments(teach)
    teach.add_argument("--out", type=Path, required=True, help="folder of the encoder, as transformers saves it")
    teach.set_defaults(run=_source_teacher)
    ablate = commands.add_parser("ablate", help="run a matrix of distillations and decoders, write one table")
    ablate.add_argument("--config", type=Path, required=True, help="YAML, see trainer/configs")
    ablate.add_argument("--work", type=Path, required=True, help="checkpoints and pictures; continued if there are any")
    ablate.add_argument("--results", type=Path, required=True, help="rows, table and pictures: small files to keep")
    ablate.add_argument("--table-only", action="store_true", help="run nothing, make the table of the rows that exist")
    ablate.add_argument("--past-gate", action="store_true", help="run the other arms even if the gate is not passed")
    ablate.add_argument(
        "--arms", nargs="+", default=(), metavar="ARM",
        help="only these, whatever the gate says: several processes share a matrix, each with arms of its own",
    )  # fmt: skip
    ablate.set_defaults(run=_ablate)


def _distill(options: argparse.Namespace) -> None:
    from trainer.distill.settings import DistillSettings
    from trainer.distill.task import distill

    distill(run_settings(options, DistillSettings, "tiles"), options.folder)


def _finetune(options: argparse.Namespace) -> None:
    from trainer.config import FinetuneSettings
    from trainer.finetune.task import finetune

    settings = run_settings(options, FinetuneSettings, "encoder", "start_from")
    if options.unfreeze:
        settings = settings.model_copy(update={"frozen_encoder": False})
    data = _with_images(settings.data, options.set, options.names)
    finetune(settings.model_copy(update={"data": data}), options.folder)


def _with_images(data: DataSettings, labelled_set: str | None, names: Sequence[str] | None) -> DataSettings:
    """The configuration's images, or those that the command line names.

    Raises:
        SettingsRefused: the configuration has several sets, so that nobody knows which is meant.
    """
    changes: dict[str, object] = {}
    if labelled_set is not None:
        # What was said of the old set says nothing about the new one.
        changes |= {"set": labelled_set, "split": "train", "root": None, "names": ()}
    if names:
        changes["names"] = tuple(names)
    if not changes or not data.sets:
        return data.model_copy(update=changes)
    if len(data.sets) > 1:
        given = "--set" if labelled_set is not None else "--names"
        raise SettingsRefused(given, f"the configuration has {len(data.sets)} sets, and this cannot say which")
    if labelled_set is not None:
        changes |= {"gsd_m": None, "soft": None}
    return data.model_copy(update={"sets": (data.sets[0].model_copy(update=changes),)})


def _soften(options: argparse.Namespace) -> None:
    from trainer.config import FinetuneSettings, read_settings
    from trainer.finetune.soften import SoftenRequest, soften

    settings = read_settings(options.config, FinetuneSettings)
    first, *others = options.teacher
    request = SoftenRequest(
        first, settings.data.sets, tuple(options.gsd), others=tuple(others), root=settings.data.root
    )
    done = soften(request, quiet=options.quiet)
    print(f"soft labels of {counted(done, 'image')} written")


def _dinov2(options: argparse.Namespace) -> None:
    from trainer.models.dinov2_onnx import folder_from_onnx

    config = folder_from_onnx(options.onnx, options.out)
    print(
        f"{options.out}: {config.num_hidden_layers} blocks, width {config.hidden_size}, {config.num_attention_heads} "
        f"heads, patches of {config.patch_size} pixels, positions for {config.image_size} pixels"
    )


def _source_teacher(options: argparse.Namespace) -> None:
    from trainer.finetune.source_teacher import SourceSettings, train_source_teacher

    figures = train_source_teacher(run_settings(options, SourceSettings), options.folder, options.out)
    print(", ".join(f"{name} {value:.3f}" for name, value in figures.items()))


def _ablate(options: argparse.Namespace) -> None:
    from trainer.ablate.matrix import read_rows, run_matrix
    from trainer.ablate.settings import AblateSettings
    from trainer.ablate.table import write_table
    from trainer.config import read_settings

    settings = read_settings(options.config, AblateSettings)
    # The table is made of the rows on the disk, so that several processes with arms of their own end with one table.
    if not options.table_only:
        run_matrix(settings, options.work, options.results, past_gate=options.past_gate, only=options.arms)
    print(write_table(settings, read_rows(settings, options.results), options.results))
