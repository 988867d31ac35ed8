"""One function per tool: from a scene's file to a georeferenced class map, as its own documentation shows.

Every tool gets the same model (those that blend, its twin), the same overlap and batch, and no more care than a user
would take: the array tools' maps are written with the source's profile, as is common. Modules of packages that drag
torchvision in are loaded alone, by path. Rows named "fastest" are a tool's own cheapest setting: no overlap.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

from benchmarks.twin import Twin

Pixels = NDArray[np.uint8]


@dataclass
class Task:
    """What a tool is to do, and what it is given for it.

    Attributes:
        scene: GeoTIFF.
        out: folder of its own; the map is put there.
        twin: uint8 tiles (N, 3, S, S) to probabilities (N, K, S, S).
        overlap: pixels that neighbouring tiles share.
        batch: tiles in one call.
        threads: of the model.
        stretch: low and high of each band of a scene that is not uint8.
        backend: of our own rows.
        halo: of our own rows; None for half the overlap.
        model: folder of the model.
        model_s: seconds spent in the model so far.
        calls: of the model so far.
        die_after: end this process by SIGKILL after so many tiles.
    """

    scene: Path
    out: Path
    model: Path
    twin: Twin | None
    overlap: int = 256
    batch: int = 1
    threads: int = 2
    stretch: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    backend: str = "onnxruntime"
    halo: int | None = None
    model_s: float = 0.0
    calls: int = 0
    die_after: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def map_path(self) -> Path:
        """Where the map is put."""
        return self.out / "map.tif"

    @property
    def step(self) -> int:
        """From one tile to the next."""
        return self.size - self.overlap

    @property
    def size(self) -> int:
        """S."""
        return self.get().size

    def get(self) -> Twin:
        """The twin, where the tool needs one."""
        if self.twin is None:
            raise ValueError("this tool was given no twin")
        return self.twin

    def count(self, tiles: int, seconds: float) -> None:
        """After each call of the model."""
        import os
        import signal

        self.model_s, self.calls = self.model_s + seconds, self.calls + tiles
        if self.die_after is not None and self.calls >= self.die_after:
            # As a power cut: no handler and no finally runs.
            os.kill(os.getpid(), signal.SIGKILL)

    def probabilities(self, tiles: Pixels) -> NDArray[np.float32]:
        """The model's, timed."""
        begin = time.perf_counter()
        outputs = self.get()(np.ascontiguousarray(tiles))
        self.count(len(tiles), time.perf_counter() - begin)
        return outputs

    def bytes_of(self, pixels: NDArray[Any]) -> Pixels:
        """(bands, ...) as the model wants them: bytes, by the scene's stretch where it is not uint8."""
        if self.stretch is None:
            return pixels.astype(np.uint8, copy=False)
        low, high = (np.asarray(side, np.float32).reshape(-1, *[1] * (pixels.ndim - 1)) for side in self.stretch)
        # 0.5 more, since the cast to bytes cuts off.
        scaled = (pixels.astype(np.float32) - low) * (255 / (high - low)) + np.float32(0.5)
        return np.clip(scaled, 0, 255).astype(np.uint8)

    def read(self) -> Pixels:
        """The whole scene (3, H, W), as tools that take an array need it."""
        with rasterio.open(self.scene) as source:
            return self.bytes_of(source.read((1, 2, 3)))

    def write(self, classes: Pixels) -> None:
        """The map (H, W) of codes, with the source's profile: what most people write."""
        with rasterio.open(self.scene) as source:
            profile = source.profile
        # Options of an RGB or JPEG scene, which a band of codes cannot have.
        for name in ("photometric", "jpeg_quality", "interleave"):
            profile.pop(name, None)
        profile.update(count=1, dtype="uint8", nodata=0, compress="deflate")
        with rasterio.open(self.map_path, "w", **profile) as target:
            target.write(classes, 1)


def onboard(task: Task) -> None:
    """Ours, as `onboard process` does it: map, overviews, palette, quicklook, STAC item."""
    import shutil

    from engines.open import open_engine
    from onboard.mapping.run import MapRequest, map_scene
    from onboard.scene.probe import Probes
    from onboard.scene.resolution import ResolutionOptions

    def told(done: int, tiles: int) -> None:
        task.calls = done
        # count() ends the process. Ours reports tiles batch by batch, so the number may be passed over.
        if task.die_after is not None and task.die_after <= done < tiles:
            task.count(0, 0.0)

    with Probes() as probes, open_engine(task.model, backend=task.backend, threads=task.threads) as engine:
        task.facts["engine"] = f"{engine.backend} {engine.precision}"
        with _begun(task):
            halo = task.overlap // 2 if task.halo is None else task.halo
            # All tools map the scene's own pixels.
            as_it_is = ResolutionOptions(gsd_m=engine.manifest.gsd_m)
            request = MapRequest(
                task.scene, task.out / "maps", name="map", batch=task.batch, halo=halo, resolution=as_it_is
            )
            summary = map_scene(request, engine, told, judge=probes.judge)
    shutil.copy(summary.map_path, task.map_path)
    # Reading and writing run beside it in ours: so the rest of the seconds is what was not hidden.
    task.model_s = summary.stages_s["infer"]
    task.calls = summary.tiles - summary.tiles_resumed
    task.facts |= {"resumed": summary.tiles_resumed, "stages_s": summary.stages_s, "mapping_s": summary.mapping_s}


def monai(task: Task, *, mode: str = "gaussian") -> None:
    """MONAI: sliding_window_inference, gaussian weights."""
    import torch
    from monai.inferers import sliding_window_inference

    def forward(tiles: torch.Tensor) -> torch.Tensor:
        # The twin takes bytes, as the model that flies does: scaling is part of its graph.
        return torch.from_numpy(task.probabilities(tiles.numpy().astype(np.uint8)))

    with _begun(task), torch.inference_mode():
        image = torch.from_numpy(task.read()).float()[None]  # what it gives has the type of what it gets
        logits = sliding_window_inference(
            image, (task.size, task.size), task.batch, forward, overlap=task.overlap / task.size, mode=mode,
            padding_mode="reflect",
        )  # fmt: skip
        task.write(logits[0].argmax(0).to(torch.uint8).numpy() + 1)


def tiler(task: Task, *, window: str = "hann") -> None:
    """tiler: Tiler and Merger with a hann window and its padding helper."""
    from tiler import Merger, Tiler

    with _begun(task):
        image = task.read()
        cut = Tiler(
            data_shape=image.shape, tile_shape=(3, task.size, task.size),
            overlap=(0, task.overlap, task.overlap), channel_dimension=0, mode="reflect",
        )  # fmt: skip
        if window != "boxcar":
            shape, padding = cut.calculate_padding()
            cut.recalculate(data_shape=shape)
            image = np.pad(image, padding, mode="reflect")
        else:
            padding = None
        classes = task.get().classes
        # Another one for the answers: they have K channels, and the tiler cuts all channels.
        out = Tiler(
            data_shape=(classes, *image.shape[1:]), tile_shape=(classes, task.size, task.size),
            overlap=(0, task.overlap, task.overlap), channel_dimension=0, mode="reflect",
        )  # fmt: skip
        merger = Merger(out, window=window)
        for ids, tiles in cut(image, batch_size=task.batch):
            batch = tiles if tiles.ndim == 4 else tiles[None]
            numbers = range(ids * task.batch, ids * task.batch + len(batch))
            for number, tile in zip(numbers, task.probabilities(batch), strict=True):
                merger.add(number, tile)
        merged = merger.merge(unpad=True, extra_padding=padding, argmax=True)
        task.write(merged.astype(np.uint8) + 1)


def geoai(task: Task, *, blend: str = "spline") -> None:
    """geoai-py: predict_geotiff with spline blending."""
    import torch

    _stub("geoai.utils", get_device=lambda: torch.device("cpu"))
    predict = _module("geoai/inference.py").predict_geotiff

    class Model(torch.nn.Module):
        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(task.probabilities(tiles.numpy()))

    with _begun(task):
        predict(
            Model(), str(task.scene), str(task.map_path), tile_size=task.size, overlap=task.overlap,
            batch_size=task.batch, input_bands=[1, 2, 3], num_classes=task.get().classes, blend_mode=blend,
            output_dtype="uint8", output_nodata=0, preprocess_fn=task.bytes_of, verbose=False,
            postprocess_fn=lambda values: values.argmax(0)[None].astype(np.uint8) + 1, compress="deflate",
        )  # fmt: skip


def samgeo(task: Task) -> None:
    """segment-geospatial: tiff_to_tiff, its bounds half the overlap; it stretches tile by tile what is not uint8."""
    convert = _module("samgeo/common.py").tiff_to_tiff

    def forward(tile: Pixels, **_: Any) -> Pixels:
        classes: Pixels = task.probabilities(np.moveaxis(tile, -1, 0)[None])[0].argmax(0).astype(np.uint8) + 1
        return classes

    with _begun(task):
        # sample_size is the core, to which the bound is added on each side: a tile is as large as the others'.
        convert(
            str(task.scene), str(task.map_path), forward, sample_size=(task.step, task.step), bound=task.overlap // 2
        )


def terratorch(task: Task, *, blend: bool = True) -> None:
    """TerraTorch: tiled_inference, blended over the overlap."""
    import torch

    pad_images = _function("terratorch/models/utils.py", "pad_images", torch=torch)
    _stub("terratorch.models.utils", pad_images=pad_images)
    infer = _module("terratorch/tasks/tiled_inference.py").tiled_inference

    def forward(tiles: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.from_numpy(task.probabilities(tiles.numpy()))

    with _begun(task), torch.inference_mode():
        image = torch.from_numpy(task.read())[None]
        logits = infer(
            # It cuts 8 pixels (delta) off each edge, so that tiles overlap by twice that at least.
            forward, image, crop=task.size, stride=min(task.step, task.size - 2 * 8), delta=8,
            batch_size=task.batch, blend_overlaps=blend,
        )  # fmt: skip
        task.write(logits.squeeze(0).argmax(0).to(torch.uint8).numpy() + 1)


def toolbelt(task: Task, *, weight: str = "pyramid") -> None:
    """pytorch-toolbelt: ImageSlicer and TileMerger with pyramid weights."""
    import torch

    tiles = _module("pytorch_toolbelt/inference/tiles.py")
    with _begun(task), torch.inference_mode():
        image = np.moveaxis(task.read(), 0, -1)
        slicer = tiles.ImageSlicer(image.shape, task.size, task.step, weight=weight)
        merger = tiles.TileMerger(slicer.target_shape, task.get().classes, slicer.weight)
        for tile, coords in slicer.iter_split(image):
            probabilities = task.probabilities(np.moveaxis(tile, -1, 0)[None])
            merger.integrate_batch(torch.from_numpy(probabilities), [coords])
        merged = slicer.crop_to_orignal_size(np.moveaxis(merger.merge().numpy(), 0, -1))
        task.write(merged.argmax(-1).astype(np.uint8) + 1)


def afternoon(task: Task) -> None:
    """Rasterio and ONNX Runtime by hand: windows read as needed, cores written as they come, one tile after another."""
    import onnxruntime

    from engines.manifest import Manifest

    manifest = Manifest.load(task.model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    session = onnxruntime.InferenceSession(
        str(task.model / manifest.model.file), options, providers=["CPUExecutionProvider"]
    )
    size, margin = manifest.input.tile_size, task.overlap // 2
    step = size - 2 * margin
    with _begun(task), rasterio.open(task.scene) as source:
        profile = {
            "driver": "GTiff", "width": source.width, "height": source.height, "count": 1, "dtype": "uint8",
            "crs": source.crs, "transform": source.transform, "nodata": 0, "compress": "deflate", "tiled": True,
            "BIGTIFF": "IF_SAFER",
        }  # fmt: skip
        with rasterio.open(task.map_path, "w", **profile) as target:
            target.write_colormap(1, {item.code: _rgb(item.color) for item in manifest.classes})
            for row in range(0, source.height, step):
                for col in range(0, source.width, step):
                    # Windows end at the scene's edges and are mirrored to a whole tile, as ours are.
                    top, left = max(0, row - margin), max(0, col - margin)
                    end, right = min(row - margin + size, source.height), min(col - margin + size, source.width)
                    pixels = source.read((1, 2, 3), window=Window(left, top, right - left, end - top))
                    before, after = top - row + margin, left - col + margin
                    pads = ((0, 0), (before, size - before - (end - top)), (after, size - after - (right - left)))
                    tile = np.pad(task.bytes_of(pixels), pads, mode="reflect")
                    begin = time.perf_counter()
                    classes = session.run(None, {"tiles": tile[None]})[0][0]
                    task.count(1, time.perf_counter() - begin)
                    height, width = min(step, source.height - row), min(step, source.width - col)
                    core = classes[margin : margin + height, margin : margin + width]
                    target.write(core, 1, window=Window(col, row, width, height))


def gdal_copy(task: Task) -> None:
    """GDAL's own copy of the scene to a COG: no model, no map; the floor of reading and writing."""
    with _begun(task):
        rasterio.shutil.copy(task.scene, task.map_path, driver="COG", compress="deflate", num_threads=task.threads)


@dataclass(frozen=True)
class Tool:
    """A row of the table.

    Attributes:
        halo: of our own rows; None for half the overlap of all, -1 for the model's own.
        wants_plain: fails on JPEG, for it writes the map with the source's profile; it gets the scene as DEFLATE.
    """

    title: str
    run: Callable[[Task], None]
    package: str | None
    blends: bool = False
    fastest: bool = False
    own: bool = False
    wants_plain: bool = False
    halo: int | None = None
    backend: str = "onnxruntime"

    @property
    def version(self) -> str:
        """Of the package that does it."""
        return version(self.package) if self.package else f"rasterio {rasterio.__version__}"


TOOLS = {
    "onboard": Tool("onboard", onboard, "onboard-landcover", own=True),
    "monai": Tool("MONAI, gaussian", monai, "monai", blends=True),
    "tiler": Tool("tiler, hann", tiler, "tiler", blends=True),
    "geoai": Tool("geoai, spline", geoai, "geoai-py", blends=True, wants_plain=True),
    "samgeo": Tool("samgeo, centre crop", samgeo, "segment-geospatial", wants_plain=True),
    "terratorch": Tool("terratorch, blended", terratorch, "terratorch", blends=True),
    "toolbelt": Tool("pytorch-toolbelt, pyramid", toolbelt, "pytorch-toolbelt", blends=True),
    "afternoon": Tool("rasterio + ONNX Runtime by hand", afternoon, None),
    "onboard-default": Tool(
        "onboard, its default", onboard, "onboard-landcover", own=True, fastest=True, halo=-1, backend="auto"
    ),
    "onboard-auto": Tool(
        "onboard, its default backend, the overlap of all", onboard, "onboard-landcover", own=True, backend="auto"
    ),
    "onboard-wide": Tool(
        "onboard, its default backend, halo 192", onboard, "onboard-landcover", own=True, halo=192, backend="auto"
    ),
    "monai-fastest": Tool(
        "MONAI, constant, no overlap", partial(monai, mode="constant"), "monai", fastest=True
    ),
    "tiler-fastest": Tool("tiler, boxcar, no overlap", partial(tiler, window="boxcar"), "tiler", fastest=True),
    "geoai-fastest": Tool(
        "geoai, none, no overlap", partial(geoai, blend="none"), "geoai-py", fastest=True, wants_plain=True
    ),
    "samgeo-fastest": Tool("samgeo, no overlap", samgeo, "segment-geospatial", fastest=True, wants_plain=True),
    "terratorch-fastest": Tool(
        "terratorch, plain mean, least overlap", partial(terratorch, blend=False), "terratorch", fastest=True
    ),
    "toolbelt-fastest": Tool(
        "pytorch-toolbelt, mean, no overlap", partial(toolbelt, weight="mean"), "pytorch-toolbelt", fastest=True
    ),
    "afternoon-fastest": Tool("by hand, no overlap", afternoon, None, fastest=True),
    "gdal": Tool("GDAL: copy to COG (floor)", gdal_copy, None),
}  # fmt: skip


@contextmanager
def _begun(task: Task) -> Iterator[None]:
    """Times the work without imports and the opening of the model."""
    begin = time.perf_counter()
    yield
    task.facts["seconds"] = time.perf_counter() - begin


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return red, green, blue


def _place(path: str) -> Path:
    return next(Path(entry) / path for entry in sys.path if (Path(entry) / path).is_file())


def _module(path: str) -> Any:
    """One module of an installed package, without what else the package would import."""
    spec = importlib.util.spec_from_file_location("peer_" + path.replace("/", "_").removesuffix(".py"), _place(path))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses look their own module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _function(path: str, name: str, **known: Any) -> Any:
    """One function of a module that itself cannot be imported here, compiled from its own file."""
    tree = ast.parse(_place(path).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    exec(compile(tree, path, "exec"), known)  # noqa: S102 - the peer's own code
    return known[name]


def _stub(name: str, **attributes: Any) -> None:
    """A module of this name that holds only what the loaded one needs."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        made = types.ModuleType(".".join(parts[:depth]))
        # An empty path makes it a package, so that modules below its name can be imported.
        made.__path__ = []
        sys.modules[made.__name__] = made
    for key, value in attributes.items():
        setattr(sys.modules[name], key, value)
