"""`engines`: the command line of models and engines."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.broken_pipe import discard_stdout
from engines.command_line import OneLineParser, add_examples, add_version, counted, names_of
from engines.errors import EngineError

if TYPE_CHECKING:
    from engines.compare import Comparison
    from engines.engine import Engine
    from engines.manifest import Manifest
    from engines.manifest_fields import ClassInfo


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 2 mend the input, 1 a failure of ours, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.command(arguments))
        # Here and not at the interpreter's end: a reader that is gone is then an error that is caught below.
        sys.stdout.flush()
    except EngineError as error:
        if arguments.debug:
            raise
        print(f"engines: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("engines: interrupted", file=sys.stderr)
        # 128 + SIGINT, as a shell reports it.
        return 130
    # Before OSError, whose subclass it is.
    except BrokenPipeError:
        return discard_stdout()
    except OSError as error:  # of a file that the command line names
        if arguments.debug:
            raise
        print(f"engines: {error}", file=sys.stderr)
        return 2
    return code


ALL = "all"


EXAMPLES = {
    "list": "engines list",
    "inspect": "engines inspect dubai-lite",
    "bench": "engines bench dubai-lite dubai-lite-int8 --seconds 8",
    "build": "engines build dubai-lite-fp16",
    "verify": "engines verify dubai-lite-int8 --reference dubai-lite --scenes scene.tif",
}


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="engines", description="Inspects, builds, measures and verifies models.")
    add_version(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="shipped models, and the backends of this machine")
    listing.set_defaults(command=_list)
    inspect = commands.add_parser("inspect", help="show what a model is and check its files")
    inspect.set_defaults(command=_inspect)
    inspect.add_argument("--json", action="store_true", help="print the manifest")
    bench = commands.add_parser("bench", help="measure models on this machine's backends, with their bounds")
    bench.set_defaults(command=_bench)
    bench.add_argument("models", nargs="*", help="shipped names or folders (default: the shipped default)")
    bench.add_argument("--backend", nargs="+", default=[ALL], help="names (default: all that can run the model)")
    bench.add_argument("--threads", type=int, help="threads of the engine (default: all usable cores)")
    bench.add_argument("--no-spinning", action="store_true", help="let idle threads sleep instead of spin")
    bench.add_argument("--batch", type=_batches, default=(1,), metavar="1,2,4", help="tiles in one call (default: 1)")
    bench.add_argument("--seconds", type=float, default=10.0, help="seconds for each batch size (default: 10)")
    bench.add_argument("--roofline", action="store_true", help="also bounds and expected tiles/s on named devices")
    bench.add_argument(
        "--layers", type=_whole_number, nargs="?", const=20, metavar="N",
        help="with --roofline: no timing, but where operations, bytes and expected time go, with the N slowest layers "
        "(default: 20); takes .onnx files too",
    )  # fmt: skip
    bench.add_argument("--json", action="store_true", help="machine-readable")
    build = commands.add_parser("build", help="build a TensorRT engine of a model, for this device or another")
    build.set_defaults(command=_build)
    build.add_argument("--out", type=Path, help="folder (default: where engines are looked for)")
    build.add_argument(
        "--batches",
        type=_batches,
        default=(1, 1, 8),
        metavar="1,1,8",
        help="minimum, usual, maximum tiles in one call (default: 1,1,8)",
    )
    build.add_argument("--target", help="compute capability to build for without the device, like 8.6 (TensorRT-RTX)")
    build.add_argument(
        "--workspace", type=_whole_number, default=2048, help="maximum scratch memory, MiB (default: 2048)"
    )
    build.add_argument("--json", action="store_true", help="machine-readable")
    build.add_argument("--heads", default="", metavar="NAME,NAME", help="that the engine gives (default: the first)")
    verify = commands.add_parser("verify", help="compare an engine with the reference on real tiles, and with labels")
    verify.set_defaults(command=_verify)
    verify.add_argument("--backend", default="auto", help="of the engine (default: auto)")
    verify.add_argument("--reference", help="FP32 model of the same classes (default: the model itself)")
    verify.add_argument("--scenes", type=Path, nargs="+", default=[], help="rasters; without: the tile with the model")
    verify.add_argument("--labels", type=Path, nargs="+", default=[], help="class rasters, in the order of the scenes")
    verify.add_argument("--data", help="what the scenes are, in words (default: their names)")
    verify.add_argument("--head", help="head of a model with heads (default: its first)")
    verify.add_argument("--record", action="store_true", help="write the acceptance into the model's manifest")
    verify.add_argument("--threads", type=int, help="threads of the engines (default: all usable cores)")
    verify.add_argument("--json", action="store_true", help="machine-readable")
    for command in (inspect, build, verify):
        command.add_argument(
            "model", nargs="?", help="shipped name, model folder or manifest.json (default: the shipped default)"
        )
    add_examples(commands, EXAMPLES)
    return parser


def _build(arguments: argparse.Namespace) -> int:
    # Each command imports what it needs: --help loads neither NumPy nor a runtime.
    from dataclasses import asdict

    from engines.cache_dirs import engines_dir
    from engines.errors import SettingRefused
    from engines.manifest import Manifest
    from engines.open import manifest_path
    from engines.tensorrt.build import build_engine
    from engines.tensorrt.engine_file import Batches, BuiltEngine
    from engines.tensorrt.runtime import Device, runtime, this_device

    if len(arguments.batches) != 3:
        raise SettingRefused("--batches", arguments.batches, "three numbers: least, usual, most")
    file = manifest_path(arguments.model)
    manifest = Manifest.load(file).with_heads(names_of(arguments.heads))
    tensorrt = runtime()
    device = Device("any", arguments.target) if arguments.target else this_device()

    def show(phase: str, step: int, steps: int) -> None:
        print(f"\r{phase[:60]:<60} {step + 1}/{steps}", end="", file=sys.stderr, flush=True)

    # Lines that overwrite each other are for a terminal; in a log they would pile up.
    path = build_engine(
        manifest, file.parent, arguments.out or engines_dir(), tensorrt, device, batches=Batches(*arguments.batches),
        workspace_bytes=arguments.workspace << 20, progress=show if sys.stderr.isatty() else None,
    )  # fmt: skip
    built = BuiltEngine.load(path)
    if arguments.json:
        print(json.dumps(asdict(built) | {"path": str(path)}))
        return 0
    print(f"{path}")
    print(f"{built.model} {built.precision} for {device.slug} by {built.runtime} {built.runtime_version}")
    layers = counted(built.layers, "layer")
    print(f"{built.bytes / 1e6:.1f} MB, {layers}, {built.seconds:.1f} s; log, layers and facts beside it")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from contextlib import ExitStack
    from functools import partial
    from itertools import chain

    from engines.compare import carried_tiles, compare, scene_tiles
    from engines.errors import SettingRefused
    from engines.manifest import MANIFEST_NAME, Manifest
    from engines.open import REFERENCE, manifest_path, open_engine

    scenes, labels = arguments.scenes, arguments.labels
    if labels and len(labels) != len(scenes):
        raise SettingRefused(
            "--labels", counted(len(labels), "file"), f"one for each of {counted(len(scenes), 'scene')}"
        )
    if arguments.record and not labels:
        raise SettingRefused(
            "--record", "without --labels", "labelled scenes: a loss cannot be measured without labels"
        )
    if arguments.record and (file := manifest_path(arguments.model)).name != MANIFEST_NAME:
        raise SettingRefused("--record", file, f"a model folder: the acceptance goes into its {MANIFEST_NAME}")
    heads = () if arguments.head is None else (arguments.head,)
    reference_model = arguments.reference or arguments.model
    known = Manifest.load(manifest_path(reference_model)).head_names
    # Not held to the golden tile: this command measures engines that may fail it.
    opened = partial(open_engine, threads=arguments.threads, check_golden=False)
    with ExitStack() as stack:
        engine = stack.enter_context(opened(arguments.model, heads=heads, backend=arguments.backend))
        # The engine's own head, where the reference has one of its name; else the reference's first.
        same = [head.name for head in engine.manifest.opened_heads if head.name in known]
        reference = stack.enter_context(opened(reference_model, heads=same, backend=REFERENCE))
        pairs = zip(scenes, labels or [None] * len(scenes), strict=True)
        tiles = chain.from_iterable(scene_tiles(scene, known, engine) for scene, known in pairs)
        comparison = compare(reference, engine, tiles if scenes else carried_tiles(engine))
    facts = _comparison_facts(engine, reference, comparison)
    passed = not comparison.collapsed
    if comparison.miou is not None:
        data = arguments.data or ", ".join(path.stem for path in scenes)
        acceptance = comparison.acceptance(engine, data)
        facts["most_loss"], passed = acceptance.most_loss, passed and acceptance.passed
        if arguments.record and not comparison.collapsed:  # a good mIoU must not accept an engine that collapses
            folder = manifest_path(arguments.model).parent
            # Read from the file again: the engine's manifest is the view of the heads that it opened.
            manifest = Manifest.load(folder).with_heads(heads)
            # One entry for each precision: the new figure takes the place of the old one.
            others = [item for item in manifest.acceptance if item.precision != acceptance.precision]
            manifest.model_copy(update={"acceptance": (*others, acceptance)}).save(folder)
    facts["passed"] = passed
    if arguments.json:
        print(json.dumps(facts))
    else:
        _print_comparison(facts)
    return 0 if passed else 1


def _comparison_facts(engine: Engine, reference: Engine, comparison: Comparison) -> dict[str, Any]:
    names = [item.title for item in engine.manifest.classes]
    agreement, name = comparison.worst_tile
    return {
        "engine": f"{engine.manifest.name} {engine.manifest.version}, {engine.backend} {engine.precision}",
        "reference": f"{reference.manifest.name} {reference.manifest.version}, {reference.backend}",
        "tiles": comparison.tiles,
        "agreement": comparison.pixel_agreement,
        "worst_tile": {"agreement": agreement, "name": name},
        # JSON has no NaN, which stands for a class in neither map.
        "iou_between": {
            name: None if math.isnan(iou) else iou for name, iou in zip(names, comparison.iou_between, strict=True)
        },
        "collapsed": comparison.collapsed,
        "miou": None if comparison.miou is None else {"reference": comparison.miou[0], "engine": comparison.miou[1]},
    }


def _print_comparison(facts: dict[str, Any]) -> None:
    print(f"engine     {facts['engine']}")
    print(f"reference  {facts['reference']}")
    worst = "worst {agreement:.4%} ({name})".format(**facts["worst_tile"])
    print(f"agreement  {facts['agreement']:.4%} of {counted(facts['tiles'], 'tile')}, {worst}")
    for name, value in facts["iou_between"].items():
        print(f"           {name}: " + ("in neither map" if value is None else f"IoU between them {value:.4f}"))
    if facts["miou"] is not None:
        reference, engine = facts["miou"]["reference"], facts["miou"]["engine"]
        difference, allowed = 100 * (engine - reference), 100 * facts["most_loss"]
        print(f"mIoU       {reference:.5f} reference, {engine:.5f} engine: {difference:+.3f} points,", end=" ")
        print(f"{allowed:.2f} may be lost")
    if facts["collapsed"]:
        print(f"collapsed  {', '.join(facts['collapsed'][:5])}")
    print("passed" if facts["passed"] else "NOT passed: this engine must not fly")


def _list(_arguments: argparse.Namespace) -> int:
    from engines.errors import ModelNotFound
    from engines.manifest import Manifest
    from engines.open import backend_states, default_model, shipped_models

    try:
        default = default_model()
    except ModelNotFound as error:
        default = None
        print(f"engines: {error}", file=sys.stderr)
    for name, folder in shipped_models().items():
        manifest = Manifest.load(folder)
        mark = " (default)" if name == default else ""
        print(f"model    {name}{mark}: {manifest.version}, {manifest.precision}, {_quality(manifest)}")
    for state in backend_states():
        print(f"backend  {state.name}: {state.version or 'not usable, ' + str(state.problem)}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from engines.manifest import Manifest
    from engines.open import manifest_path
    from engines.verify import read_golden

    file = manifest_path(arguments.model)
    manifest = Manifest.load(file)
    manifest.check_files(file.parent)
    if manifest.golden is not None:
        read_golden(manifest.with_heads(manifest.head_names), file.parent)
    print(manifest.to_json() if arguments.json else render(manifest.with_heads(manifest.head_names)))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from engines.errors import SettingRefused
    from engines.profiling.bench import bench, machine
    from engines.profiling.roofline import DEVICES, this_cpu

    if arguments.layers is not None:
        if not arguments.roofline:
            raise SettingRefused("--layers", arguments.layers, "--roofline with it: layers are counted, not timed")
        return _count_layers(arguments)

    cpu = this_cpu()
    result = bench(
        arguments.models or [None], None if arguments.backend == [ALL] else arguments.backend, cpu,
        batches=arguments.batch, seconds=arguments.seconds, threads=arguments.threads,
        spinning=not arguments.no_spinning, devices=DEVICES if arguments.roofline else (),
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(result.facts() | {"machine": machine()}))
    else:
        print(f"machine  {machine()}")
        print(f"peak     {cpu.flops_per_s / 1e9:.0f} GFLOP/s FP32, {cpu.bytes_per_s / 1e9:.1f} GB/s ({cpu.source})")
        print(result.table())
    return 130 if result.interrupted else 0


def _files(manifest: Manifest) -> list[str]:
    """Lines of the files with a graph in them."""
    if not (heads := manifest.opened_heads):
        model = manifest.model
        return [f"file      {model.file}, {model.bytes:,} bytes, sha256 {model.sha256} (checked)"]
    files = [("encoder", manifest.files[0]), *(("head", head.model) for head in heads)]
    lines = [f"{kind:<9} {entry.file}, sha256 {entry.sha256} (checked)" for kind, entry in files]
    return [*lines, f"heads     {', '.join(manifest.head_names)} (the first one is used unless others are asked for)"]


def _classes(classes: Sequence[ClassInfo], width: int) -> list[str]:
    return [f"  {item.code:3} {item.title:<{width}} {item.color}" for item in classes]


def _costs(manifest: Manifest) -> list[str]:
    """Lines of what a tile costs, of a model with heads with its first one and with all."""
    first = manifest.with_heads(manifest.head_names[:1]).cost
    costs = [("", manifest.cost)]
    if manifest.further_heads:
        costs = [(f" (head {manifest.head_names[0]} alone)", first), (" (all heads)", manifest.cost)]
    return [
        f"cost      {cost.flops / 1e9:.0f} GFLOP a tile, "
        f"{cost.bytes_moved / 1e9:.2f} GB moved at two bytes a number{what}"
        for what, cost in costs if cost is not None
    ]  # fmt: skip


def _count_layers(arguments: argparse.Namespace) -> int:
    from engines.profiling.layer_report import LayerReport, named_layers

    reports = [LayerReport(*named_layers(model)) for model in arguments.models or [None]]
    if arguments.json:
        print(json.dumps([report.facts() for report in reports]))
        return 0
    print("\n\n".join(report.table(arguments.layers) for report in reports))
    return 0


def render(manifest: Manifest) -> str:
    """A model's facts as a person reads them."""
    name, size, scaling = manifest.input.name, manifest.input.tile_size, manifest.input.value_scaling
    bands = [band.name for band in manifest.input.bands]
    outputs = ", ".join(name for name in (manifest.output.classes, manifest.output.confidence) if name)
    familiar = manifest.familiarity
    lines = [
        f"model     {manifest.name} {manifest.version}, made {manifest.created:%Y-%m-%d}",
        *_files(manifest),
        f"graph     opset {manifest.opset}, {manifest.precision}",
        f"input     {name}: uint8 (N, {len(bands)}, {size}, {size}), {', '.join(bands)}; {scaling}",
        f"output    {outputs}: uint8 (N, {size}, {size})"
        + ("" if familiar is None else f"; {familiar.output}: float32 (N,), unfamiliar below {familiar.threshold:g}"),
        *(
            []
            if manifest.input.tile_sides is None
            else [f"sides     of a tile {', '.join(map(str, manifest.input.sides))} pixels, height and width each"]
        ),
        f"halo      {manifest.halo} pixels",
        f"golden    {'checked file, run at every opening' if manifest.golden else 'none'}",
    ]
    lines += _costs(manifest)
    for acceptance in manifest.acceptance:
        verdict = "accepted" if acceptance.passed else "REFUSED"
        change = f"{100 * (acceptance.miou - acceptance.miou_reference):+.2f} points of mIoU"
        lines.append(f"{acceptance.precision:<9} {verdict}: {change} on {acceptance.data}, {acceptance.backend}")
    if manifest.training is not None:
        # Two splits of one set are two entries.
        sets = "; ".join(dict.fromkeys(f"{item.name} ({item.license})" for item in manifest.training.data_sets))
        lines.append(f"trained   on {sets}; {manifest.training.epochs:g} epochs, commit {manifest.training.commit}")
    legends = (manifest.classes, *(head.classes for head in manifest.further_heads))
    width = max(len(item.title) for legend in legends for item in legend)
    lines += _classes(manifest.classes, width)
    for head in manifest.further_heads:
        lines += [f"head      {head.name}: {head.description}", *_classes(head.classes, width)]
    for row in manifest.evaluation:
        lines.append(f"on {row.data_set}, {row.split}: mIoU {row.miou:.3f}, OA {row.oa:.3f}, mF1 {row.mf1:.3f}")
        for name, iou in row.per_class_iou.items():
            lines.append(f"      {name:<{width}} {'not there' if iou is None else format(iou, '.3f')}")
    return "\n".join(lines)


def _quality(manifest: Manifest) -> str:
    if not manifest.evaluation and manifest.places:
        mean = sum(place.mean_iou for place in manifest.places) / len(manifest.places)
        return f"mean IoU {mean:.3f} over {counted(len(manifest.places), 'place')}"
    if not manifest.evaluation:
        return "not evaluated"
    first = manifest.evaluation[0]
    return f"mIoU {first.miou:.3f} on {first.data_set}, {first.split}"


def _whole_number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def _batches(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no list of batch sizes; give them like 1,2,4") from None


if __name__ == "__main__":
    sys.exit(main())
