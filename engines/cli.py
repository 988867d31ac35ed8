"""`engines`: the command line of models and engines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engines.errors import EngineError
from engines.reader_gone import reader_gone

if TYPE_CHECKING:
    from engines.manifest import Manifest


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 2 mend the input, 1 a failure of ours, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.command(arguments))
        sys.stdout.flush()
    except EngineError as error:
        if arguments.debug:
            raise
        print(f"engines: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("engines: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return reader_gone()
    except OSError as error:  # of a file that the command line names
        if arguments.debug:
            raise
        print(f"engines: {error}", file=sys.stderr)
        return 2
    return code


ALL = "all"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="engines", description="Models and what runs them.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="shipped models, and the backends of this machine")
    listing.set_defaults(command=_list)
    inspect = commands.add_parser("inspect", help="say what a model is and check its files")
    inspect.set_defaults(command=_inspect)
    inspect.add_argument("--json", action="store_true", help="print the manifest")
    bench = commands.add_parser("bench", help="time models on this machine's backends, and say what bounds them")
    bench.set_defaults(command=_bench)
    bench.add_argument("models", nargs="*", help="shipped names or folders (default: the shipped default)")
    bench.add_argument("--backend", nargs="+", default=[ALL], help="names (default: all that can run the model)")
    bench.add_argument("--threads", type=int, help="threads of the engine (default: all usable cores)")
    bench.add_argument("--no-spinning", action="store_true", help="idle threads sleep")
    bench.add_argument("--batch", type=_batches, default=(1,), metavar="1,2,4", help="tiles in one call (default: 1)")
    bench.add_argument("--seconds", type=float, default=10.0, help="for each batch size (default: 10)")
    bench.add_argument("--roofline", action="store_true", help="also bounds and expectations on named devices, counted")
    bench.add_argument(
        "--layers", type=_whole_number, nargs="?", const=20, metavar="N",
        help="with --roofline: no timing, but where operations, bytes and expected time go, with the N dearest layers "
        "(default: 20); takes .onnx files too",
    )  # fmt: skip
    bench.add_argument("--json", action="store_true", help="machine-readable")
    build = commands.add_parser("build", help="make a TensorRT engine of a model, for this device or another")
    build.set_defaults(command=_build)
    build.add_argument("--out", type=Path, help="folder (default: where engines are looked for)")
    build.add_argument("--batches", type=_batches, default=(1, 1, 8), metavar="1,1,8", help="least, usual, most tiles")
    build.add_argument("--target", help="compute capability to build for without the device, like 8.6 (TensorRT-RTX)")
    build.add_argument("--workspace", type=_whole_number, default=2048, help="most scratch memory, MiB (default: 2048)")
    build.add_argument("--json", action="store_true", help="machine-readable")
    verify = commands.add_parser("verify", help="hold an engine to the reference on real tiles, and on labels")
    verify.set_defaults(command=_verify)
    verify.add_argument("--backend", default="auto", help="of the engine (default: auto)")
    verify.add_argument("--reference", help="FP32 model of the same classes (default: the model itself)")
    verify.add_argument("--scenes", type=Path, nargs="+", default=[], help="rasters; without: the tile with the model")
    verify.add_argument("--labels", type=Path, nargs="+", default=[], help="class rasters, in the order of the scenes")
    verify.add_argument("--data", help="what the scenes are, in words (default: their names)")
    verify.add_argument("--record", action="store_true", help="write the acceptance into the model's manifest")
    verify.add_argument("--threads", type=int, help="threads of the engines (default: all usable cores)")
    verify.add_argument("--json", action="store_true", help="machine-readable")
    for command in (inspect, build, verify):
        command.add_argument(
            "model", nargs="?", help="shipped name, model folder or manifest.json (default: the shipped default)"
        )
    return parser


def _build(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from engines.build import Batches, BuiltEngine, build_engine
    from engines.errors import SettingRefused
    from engines.manifest import Manifest
    from engines.open import manifest_path
    from engines.places import built_folder
    from engines.trt import Device, runtime, this_device

    if len(arguments.batches) != 3:
        raise SettingRefused("--batches", arguments.batches, "three numbers: least, usual, most")
    file = manifest_path(arguments.model)
    manifest = Manifest.load(file)
    found = runtime()
    device = Device("any", arguments.target) if arguments.target else this_device()

    def show(phase: str, step: int, steps: int) -> None:
        print(f"\r{phase[:60]:<60} {step + 1}/{steps}", end="", file=sys.stderr, flush=True)

    path = build_engine(
        manifest, file.parent, arguments.out or built_folder(), found, device, batches=Batches(*arguments.batches),
        workspace_bytes=arguments.workspace << 20, progress=show if sys.stderr.isatty() else None,
    )  # fmt: skip
    built = BuiltEngine.load(path)
    if arguments.json:
        print(json.dumps(asdict(built) | {"path": str(path)}))
        return 0
    print(f"{path}")
    print(f"{built.model} {built.precision} for {device.slug} by {built.runtime} {built.runtime_version}")
    print(f"{built.bytes / 1e6:.1f} MB, {built.layers} layers, {built.seconds:.1f} s; log, layers and facts beside it")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from contextlib import ExitStack
    from itertools import chain

    from engines.compare import carried_tiles, compare, scene_tiles
    from engines.errors import SettingRefused
    from engines.manifest import Manifest
    from engines.open import REFERENCE, manifest_path, open_engine

    scenes, labels = arguments.scenes, arguments.labels
    if labels and len(labels) != len(scenes):
        raise SettingRefused("--labels", f"{len(labels)} files", f"one for each of the {len(scenes)} scenes")
    if arguments.record and not labels:
        raise SettingRefused("--record", "without --labels", "labelled scenes: without labels a loss cannot be told")
    with ExitStack() as stack:
        engine = stack.enter_context(
            open_engine(arguments.model, backend=arguments.backend, threads=arguments.threads, check_golden=False)
        )
        reference = stack.enter_context(
            open_engine(
                arguments.reference or arguments.model, backend=REFERENCE, threads=arguments.threads, check_golden=False
            )
        )
        pairs = zip(scenes, labels or [None] * len(scenes), strict=True)
        tiles = chain.from_iterable(scene_tiles(scene, known, engine) for scene, known in pairs)
        found = compare(reference, engine, tiles if scenes else carried_tiles(engine))
    names = [item.title for item in engine.manifest.classes]
    facts = {
        "engine": f"{engine.manifest.name} {engine.manifest.version}, {engine.backend} {engine.precision}",
        "reference": f"{reference.manifest.name} {reference.manifest.version}, {reference.backend}",
        "tiles": found.tiles,
        "agreement": found.pixel_agreement,
        "worst_tile": {"agreement": found.worst_tile[0], "name": found.worst_tile[1]},
        "iou_between": dict(zip(names, found.iou_between, strict=True)),
        "collapsed": found.collapsed,
        "miou": None if found.miou is None else {"reference": found.miou[0], "engine": found.miou[1]},
    }
    passed = not found.collapsed
    if found.miou is not None:
        data = arguments.data or ", ".join(path.stem for path in scenes)
        acceptance = found.acceptance(engine, data)
        facts["most_loss"], passed = acceptance.most_loss, passed and acceptance.passed
        if arguments.record and not found.collapsed:  # else mIoU alone would let it fly
            folder = manifest_path(arguments.model).parent
            manifest = Manifest.load(folder)
            others = [item for item in manifest.acceptance if item.precision != acceptance.precision]
            manifest.model_copy(update={"acceptance": (*others, acceptance)}).save(folder)
    facts["passed"] = passed
    if arguments.json:
        print(json.dumps(facts))
    else:
        _print_comparison(facts)
    return 0 if passed else 1


def _print_comparison(facts: dict[str, Any]) -> None:
    print(f"engine     {facts['engine']}")
    print(f"reference  {facts['reference']}")
    worst = "worst {agreement:.4%} ({name})".format(**facts["worst_tile"])
    print(f"agreement  {facts['agreement']:.4%} of {facts['tiles']} tiles, {worst}")
    for name, value in facts["iou_between"].items():
        print(f"           {name}: IoU between them {value:.4f}")
    if facts["miou"] is not None:
        one, other = facts["miou"]["reference"], facts["miou"]["engine"]
        print(f"mIoU       {one:.5f} reference, {other:.5f} engine: {100 * (other - one):+.3f} points,", end=" ")
        print(f"{100 * facts['most_loss']:.2f} may be lost")
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
    manifest.model.read_verified(file.parent)
    if manifest.golden is not None:
        read_golden(manifest, file.parent)
    print(manifest.to_json() if arguments.json else render(manifest))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from engines.bench import bench, machine
    from engines.errors import SettingRefused
    from engines.roofline import DEVICES, this_cpu

    if arguments.layers is not None:
        if not arguments.roofline:
            raise SettingRefused("--layers", arguments.layers, "--roofline with it: layers are counted, not timed")
        return _count_layers(arguments)

    cpu = this_cpu()
    found = bench(
        arguments.models or [None], None if arguments.backend == [ALL] else arguments.backend, cpu,
        batches=arguments.batch, seconds=arguments.seconds, threads=arguments.threads,
        spinning=not arguments.no_spinning, devices=DEVICES if arguments.roofline else (),
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(found.facts() | {"machine": machine()}))
        return 0
    print(f"machine  {machine()}")
    print(f"peak     {cpu.flops_per_s / 1e9:.0f} GFLOP/s FP32, {cpu.bytes_per_s / 1e9:.1f} GB/s ({cpu.source})")
    print(found.table())
    return 0


def _count_layers(arguments: argparse.Namespace) -> int:
    from engines.layer_report import LayerReport, named_layers

    reports = [LayerReport(*named_layers(model)) for model in arguments.models or [None]]
    if arguments.json:
        print(json.dumps([report.facts() for report in reports]))
        return 0
    print("\n\n".join(report.table(arguments.layers) for report in reports))
    return 0


def render(manifest: Manifest) -> str:
    """A model's facts as a person reads them."""
    taken, size = manifest.input, manifest.input.tile_size
    bands = ", ".join(band.name for band in taken.bands)
    told = ", ".join(name for name in (manifest.output.classes, manifest.output.confidence) if name)
    familiar = manifest.familiarity
    lines = [
        f"model     {manifest.name} {manifest.version}, made {manifest.created:%Y-%m-%d}",
        f"file      {manifest.model.file}, {manifest.model.bytes:,} bytes, sha256 {manifest.model.sha256} (checked)",
        f"graph     opset {manifest.opset}, {manifest.precision}",
        f"input     {taken.name}: uint8 (N, {len(taken.bands)}, {size}, {size}), {bands}; {taken.value_scaling}",
        f"output    {told}: uint8 (N, {size}, {size})"
        + ("" if familiar is None else f"; {familiar.output}: float32 (N,), unfamiliar below {familiar.threshold:g}"),
        f"halo      {manifest.halo} pixels",
        f"golden    {'checked file, run at every opening' if manifest.golden else 'none'}",
    ]
    if manifest.cost is not None:
        cost = manifest.cost
        lines.append(f"cost      {cost.flops / 1e9:.0f} GFLOP, {cost.bytes_moved / 1e9:.1f} GB moved a tile (FP16)")
    for found in manifest.acceptance:
        loss, verdict = 100 * (found.miou - found.miou_reference), "accepted" if found.passed else "REFUSED"
        lines.append(f"{found.precision:<9} {verdict}: {loss:+.2f} points of mIoU on {found.data}, {found.backend}")
    if manifest.training is not None:
        sets = "; ".join(f"{item.name} ({item.license})" for item in manifest.training.data_sets)
        lines.append(f"trained   on {sets}; {manifest.training.epochs:g} epochs, commit {manifest.training.commit}")
    width = max(len(item.title) for item in manifest.classes)
    lines += [f"  {item.code:3} {item.title:<{width}} {item.color}" for item in manifest.classes]
    for row in manifest.evaluation:
        lines.append(f"on {row.data_set}, {row.split}: mIoU {row.miou:.3f}, OA {row.oa:.3f}, mF1 {row.mf1:.3f}")
        for name, iou in row.per_class_iou.items():
            lines.append(f"      {name:<{width}} {'not there' if iou is None else format(iou, '.3f')}")
    return "\n".join(lines)


def _quality(manifest: Manifest) -> str:
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
