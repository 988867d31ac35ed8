"""One request bound to its open scene and executor: what its map depends on, and where its files lie."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onboard.errors import OptionsRefused, SceneRefused
from onboard.files import sha256_file
from onboard.mapping.executors import EngineDescription, TileExecutor
from onboard.mapping.integrity import check_scene
from onboard.mapping.journal import identity_bytes
from onboard.mapping.quicklook import DEFAULT_KIND
from onboard.mapping.request import MapRequest
from onboard.mapping.scene_files import digest_of_all, scene_digests
from onboard.scene.decoders import decoder_versions
from onboard.scene.georeference import Georeference
from onboard.scene.grid import Grid, tile_shape
from onboard.scene.reader import Scene
from onboard.scene.resample import RESAMPLING_VERSION
from onboard.scene.resolution import Resolution

WORK = ".onboard"
# Part of every canvas's identity: raised when the same inputs would give other bytes.
PIPELINE_VERSION = 5


@dataclass(frozen=True)
class Job:
    """One request bound to its open scene and executor.

    Attributes:
        scene: as the model sees it.
        resolution: of the scene, and of what the model sees.
        scene_sha256: of the scene's file where that is all, else of all its files.
        scene_files: SHA-256 of each file of the scene by its name, the scene's own first.
        identity: everything the map's pixels depend on.
    """

    request: MapRequest
    scene: Scene
    executor: TileExecutor
    resolution: Resolution
    grid: Grid
    scene_sha256: str
    scene_files: Mapping[str, str]
    identity: dict[str, Any]

    @classmethod
    def of(cls, request: MapRequest, scene: Scene, executor: TileExecutor, resolution: Resolution) -> Job:
        """Fixes grid and identity. The scene is read as the resolution says."""
        engine, manifest = executor.engine, executor.engine.manifest
        halo = manifest.halo if request.halo is None else request.halo
        shape = tile_shape(scene.width, scene.height, engine.tile_sides, halo=halo)
        grid = Grid(scene.width, scene.height, tile_size=shape, halo=halo)
        scene_files = digests_of(request.scene)
        scene_sha256 = digest_of_all(scene_files)
        if request.scene_sha256 is not None:
            check_scene(request.scene, scene_sha256, request.scene_sha256)
            # The accepted digest and not the one just read, which a flipped bit in memory may have changed.
            scene_sha256 = request.scene_sha256
        # What can change a pixel, and nothing else: an entry too many throws half-mapped canvases away, a missing one
        # mixes tiles of two works in one map.
        identity = {
            "pipeline": PIPELINE_VERSION,
            "scene": scene_sha256,
            # JPEG decoders differ in 0.3 to 0.5 % of a map's classes, see onboard.scene.decoders.
            "decoders": decoder_versions(),
            "size": [scene.width, scene.height],
            "model": manifest.model.sha256,
            "engine": engine.digest,  # two builds of one model may differ in a few pixels
            "precision": engine.precision,
            # One number for the usual square: canvases that were begun before there were other shapes are continued.
            "tile": manifest.input.tile_size if {*shape} == {manifest.input.tile_size} else [*shape],
            "halo": halo,
            "batch": request.batch,  # tiles of one call may round otherwise than alone
            "scene_facts": scene.facts,
            "confidence": request.confidence,
        }
        if resolution.is_resampled:
            identity["resampled"] = {"from": list(resolution.scene_size), "version": RESAMPLING_VERSION}
        # In the form that the journal keeps: tuples are lists there.
        identity = json.loads(identity_bytes(identity))
        return cls(request, scene, executor, resolution, grid, scene_sha256, scene_files, identity)

    @property
    def engine(self) -> EngineDescription:
        """That infers."""
        return self.executor.engine

    @property
    def final(self) -> Path:
        """The map's folder once published."""
        return self.request.out / self.request.folder_name

    @property
    def work(self) -> Path:
        """Where the canvas and the unpublished product lie."""
        return (self.request.work or self.request.out / WORK) / self.request.folder_name

    @property
    def identity_digest(self) -> str:
        """SHA-256 over the identity and the options that only touch the product."""
        # Options that only touch the product leave the canvas as it is; its files are written anew. An option at its
        # default is left out here, so that maps of before there was the option keep their digest.
        product = self.identity | {"sieve": self.request.sieve_px}
        if self.resolution.is_resampled:
            product["grid"] = self.resolution.grid
        if self.request.quicklook != DEFAULT_KIND:  # maps made before there was a choice stay as they are
            product["quicklook"] = self.request.quicklook
        if self.engine.manifest.further_heads:
            product["head_quicklook"] = self.request.head_quicklook
        if self.request.earlier is not None:
            product["changes"] = self.request.earlier.key
        if self.request.polygons:
            product["polygons"] = list(self.request.polygons)
        return hashlib.sha256(identity_bytes(product)).hexdigest()

    def published(self) -> dict[str, Any] | None:
        """The item of this very map, if it stands already.

        Raises:
            OptionsRefused: the name is taken by something else than a map of this scene.
        """
        if not self.final.exists():
            return None
        try:
            item = json.loads((self.final / "map.json").read_text(encoding="utf-8"))
            properties = item["properties"]
            same_scene = properties["onboard:scene_sha256"] == self.scene_sha256
            same = properties["onboard:identity"] == self.identity_digest
        except (OSError, ValueError, KeyError, TypeError):
            raise OptionsRefused(
                f"{self.final} exists and is no map of ours", "move it away, or choose another --out or --name"
            ) from None
        if not same_scene and not self.request.overwrite:
            raise OptionsRefused(
                f"{self.final} holds the map of another scene", "choose another --name, or give --overwrite"
            )
        # Last, since it reads every file. A map whose bytes changed is made again, as if it were not there.
        return item if same and self._intact(item) else None

    def _intact(self, item: dict[str, Any]) -> bool:
        for asset in item["assets"].values():
            path = self.final / asset["href"]
            if not path.is_file() or asset["file:checksum"] != "1220" + sha256_file(path):
                return False
        return True

    @property
    def read_timeout_s(self) -> float:
        """Longest wait for one batch: as asked for, longer where a tile is made of more pixels than it has."""
        enlargement = math.prod(self.resolution.scene_size) / math.prod(self.resolution.read_size)
        return self.request.read_timeout_s * max(1.0, enlargement)

    @property
    def georeference(self) -> Georeference:
        """Of the map."""
        (width, height), (mapped, rows) = self.resolution.read_size, self.resolution.map_size
        return self.scene.georeference.scaled(width / mapped, height / rows)

    @property
    def shows_scene(self) -> bool:
        """Whether any quicklook shows the scene beside its map."""
        further = (self.request.head_quicklook,) if self.engine.manifest.further_heads else ()
        return "side" in (self.request.quicklook, *further)

    @property
    def stays_here(self) -> bool:
        """Whether map, scene and model stay on this machine: of a run by hand, whose work lies in its own folder."""
        return self.request.work is None

    def clean(self) -> None:
        """Removes canvas and unpublished product, and folders that are empty then."""
        shutil.rmtree(self.work, ignore_errors=True)
        _remove_if_empty(self.work.parent)
        _remove_if_empty(self.request.out)


def digests_of(path: Path) -> dict[str, str]:
    """SHA-256 of each of a scene's files.

    Raises:
        SceneRefused: one cannot be read.
    """
    try:
        return scene_digests(path)
    except OSError as error:
        raise SceneRefused(path, f"cannot be read: {error.strerror}", "check the file and its permissions") from error


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
