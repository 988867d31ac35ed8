"""`onboard batch`: many scenes, one after another here, or a few at a time over a cluster."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onboard.errors import OnboardError, OptionsRefused
from onboard.files import is_hidden

if TYPE_CHECKING:
    from onboard.mapping.executors import TileExecutor
    from onboard.mapping.run import Judge, MapRequest, MapSummary

ENDINGS = (".tif", ".tiff")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one scene: a summary, or the problem."""

    scene: Path
    summary: MapSummary | None
    problem: str
    exit_code: int

    def as_json(self) -> dict[str, Any]:
        """One line of `--json`."""
        line = {"scene": str(self.scene), "problem": self.problem or None}
        return line | ({} if self.summary is None else self.summary.as_json())


def scenes_of(named: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the GeoTIFFs in them whose names are not hidden.

    Raises:
        OptionsRefused: nothing is there, or two scenes would give maps of one name.
    """
    scenes: list[Path] = []
    for path in named:
        inside = _geotiffs_in(path) if path.is_dir() else [path]
        if not inside:
            raise OptionsRefused(
                f"there is no GeoTIFF in {path}", f"give files, or a folder with {' or '.join(ENDINGS)}"
            )
        scenes += inside
    twice = [name for name, count in Counter(path.stem for path in scenes).items() if count > 1]
    if twice:
        raise OptionsRefused(
            f"two scenes are named {twice[0]}, and so would their maps be", "rename one, or map it into another --out"
        )
    return scenes


def _geotiffs_in(folder: Path) -> list[Path]:
    named = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS]
    # By its name alone: the folder itself may lie below a hidden one.
    return sorted(file for file in named if not is_hidden(Path(file.name)))


def run_batch(
    scenes: Sequence[Path],
    request: MapRequest,
    executor: TileExecutor,
    *,
    judge: Judge | None = None,
    at_once: int = 1,
    report: Callable[[Outcome], None],
) -> int:
    """Maps every scene; one that fails does not keep the others waiting.

    Args:
        scenes: GeoTIFFs.
        request: for all; its scene and name are replaced.
        executor: maps the tiles; one of this process is used on this thread.
        judge: looks at each scene first; see `map_scene`.
        at_once: scenes at a time on a cluster, so that one is published while the next is inferred.
        report: called after each scene, in their order.

    Returns:
        0 if all are mapped, 2 if an input has to be mended, 1 if something of ours failed, 3 if a map may be a guess
        and the request is strict: the first of 2, 1, 3 that occurred.
    """

    def mapped(scene: Path) -> Outcome:
        from engines.errors import EngineError
        from onboard.mapping.run import map_scene

        try:
            single = replace(request, scene=scene, name=None)
            summary = map_scene(single, executor, judge=judge)
            return Outcome(scene, summary, "", summary.exit_code(strict=request.strict))
        # A scene's own trouble ends with it. Anything else is a fault of ours, and ends the batch.
        except (OnboardError, EngineError) as error:
            return Outcome(scene, None, " ".join(str(error).split()), int(getattr(error, "exit_code", 1)))

    from onboard.mapping.executors import LocalExecutor

    codes = set()
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        # The engine of this process belongs to this thread.
        for outcome in map(mapped, scenes) if isinstance(executor, LocalExecutor) else pool.map(mapped, scenes):
            codes.add(outcome.exit_code)
            report(outcome)
    return next((code for code in (2, 1, 3) if code in codes), 0)


def line(outcome: Outcome, width: int) -> str:
    """One scene as a person reads it."""
    if outcome.summary is None:
        return f"{outcome.scene.name:<{width}}  refused: {outcome.problem}"
    from engines.command_line import bytes_text, counted

    summary = outcome.summary
    rate = "already mapped" if summary.already_mapped else f"{counted(summary.tiles, 'tile')}, {summary.seconds:.1f} s"
    return f"{outcome.scene.name:<{width}}  {rate}, {bytes_text(summary.map_bytes)}  {summary.map_path}"


def batch(arguments: argparse.Namespace, request: MapRequest, executor: TileExecutor, judge: Judge) -> int:
    """The command, its engine open."""
    scenes = scenes_of(arguments.scenes)
    if arguments.at_once < 1:
        raise OptionsRefused(f"--at-once is {arguments.at_once}", "give a whole number from 1 on")
    width = max(len(scene.name) for scene in scenes)

    def report(outcome: Outcome) -> None:
        if arguments.json:
            # One line as soon as it is known: a batch takes hours, and a reader of the pipe follows it.
            print(json.dumps(outcome.as_json()), flush=True)
        elif outcome.summary is None:
            print(line(outcome, width), file=sys.stderr, flush=True)
        elif not arguments.quiet:
            print(line(outcome, width), flush=True)
            for text in outcome.summary.assumptions:
                print(f"{outcome.scene.name:<{width}}  assumed: {text}", file=sys.stderr, flush=True)
            for text in outcome.summary.notices:
                print(f"{outcome.scene.name:<{width}}  {text}", file=sys.stderr, flush=True)
            if warning := outcome.summary.familiarity.warning:
                print(f"{outcome.scene.name:<{width}}  {warning}", file=sys.stderr, flush=True)

    return run_batch(scenes, request, executor, judge=judge, at_once=arguments.at_once, report=report)
