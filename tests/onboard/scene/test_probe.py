from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from onboard.errors import OptionsRefused, SceneRefused
from onboard.scene.probe import Limits, Probe, Probes, _judge, probe_scene
from onboard.scene.reader import SceneOptions
from tests.onboard.scene.products import write_maxar

OK = ""
PLACE = {"crs": "EPSG:32640", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 2.8e6)}
# What each hostile or strange file is answered with: part of the refusal, or OK.
ODD = {
    "RGB.byte.tif": OK,
    "byte_buggy_packbits.tif": "cannot be read",
    "byte_gcp.tif": OK,
    "byte_nogeoref.tif": OK,
    "byte_rpc.tif": OK,
    "byte_truncated.tif": "cannot be read",
    "byte_zstd_corrupted.tif": "cannot be read",
    "complex_float32.tif": "complex64",
    "corrupt.tif": "cannot be read",
    "corrupted_deflate_singlestrip.tif": "palette",
    "corrupted_gtiff_tags.tif": "cannot be read",
    "excessive-memory-TIFFFillTile.tif": "cannot be read",
    "geomatrix.tif": OK,
    "huge-number-strips.tif": "cannot be read when opened",
    "huge4GB.tif": "cannot be read",
    "huge_raster_with_ovr_huge_block.tif": "declares 2147000000 x 1 pixels",
    "hugeblocksize.tif": "Too large block size",
    "lzw_corrupted.tif": "cannot be read",
    "many_blocks_truncated.tif": "declares 1 x 16777215 pixels",
    "md_dg.tif": OK,
    "missing_tilebytecounts_and_offsets.tif": "cannot be read",
    "nan32_nodata.tif": OK,
    "rgba.tif": OK,
    "rgbsmall_cmyk.tif": OK,
    "rpc.vrt": "is not a TIFF",
    "sparse_tiled_contig.tif": OK,
    "stefan_full_greyalpha_uint16_LZW_predictor_2.tif": OK,
    "stefan_full_rgba_jpeg_contig.tif": OK,
    "test3_with_1mask_1bit.tif": OK,
    "test_nodatavalues.tif": OK,
    "tiff_dos_strip_chop.tif": "declares 2048 x 1073741824 pixels",
    "tiled_bad_offset.tif": "cannot be read",
    "toomanyblocks.tif": "Too many blocks",
    "uint16_3band.vrt": "is not a TIFF",
    "uint33.tif": "BitsPerSample",
    "unknown_compression.tif": "codec",
    "unsupported_codec_unknown.tif": "codec",
}


@pytest.mark.parametrize("name", ODD)
def test_each_odd_file_is_mapped_or_refused_in_one_line_and_soon(shared_data: Path, name: str) -> None:
    begin = time.monotonic()
    if ODD[name] == OK:
        probe_scene(shared_data / "odd_tiffs" / name)
    else:
        with pytest.raises(SceneRefused) as refusal:
            probe_scene(shared_data / "odd_tiffs" / name)
        assert ODD[name] in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert refusal.value.remedy
    assert time.monotonic() - begin < 60


def test_every_odd_file_has_its_verdict_here(shared_data: Path) -> None:
    assert {path.name for path in (shared_data / "odd_tiffs").iterdir()} == set(ODD)


def test_every_real_scene_is_taken(shared_data: Path) -> None:
    for path in sorted((shared_data / "geotiffs").glob("*.tif")):
        probe_scene(path)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.tif"
    keys = {"driver": "GTiff", "width": 600, "height": 500, "count": 3, "dtype": "uint8", "crs": "EPSG:32640"}
    with rasterio.open(path, "w", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 2.8e6), **keys) as target:
        target.write(np.full((3, 500, 600), 7, np.uint8))
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.tif", "no such file"),
        ("folder.tif", "is a folder"),
        ("empty.tif", "is empty"),
        ("text.tif", "is not a TIFF"),
    ],
)
def test_what_is_no_tiff_is_told_apart(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("<VRTDataset/>")
    with pytest.raises(SceneRefused, match=message):
        probe_scene(tmp_path / name)


@pytest.mark.parametrize("path", ["/vsicurl/http://localhost/x.tif", "http://localhost/x.tif", "/vsizip/x.zip/y.tif"])
def test_nothing_remote_is_opened(path: str) -> None:
    with pytest.raises(SceneRefused, match="not a local file"):
        probe_scene(Path(path))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(scene_pixels=1000), "declares 600 x 500"),
        (Limits(side_pixels=100), "declares 600 x 500"),
        (Limits(block_bytes=100), "one block decodes to"),
        (Limits(wall_s=1e-4), "took over 0.0001 s"),
    ],
)
def test_limits_hold(scene: Path, limits: Limits, message: str) -> None:
    with pytest.raises(SceneRefused, match=message):
        probe_scene(scene, limits=limits)


def written(path: Path, pixels: NDArray[np.uint8] | None = None, **keys: Any) -> Path:
    """A GeoTIFF; without ``pixels`` its blocks are never written."""
    keys = {"count": 3, "dtype": "uint8", "interleave": "pixel", **PLACE, **keys}
    if pixels is not None:
        keys |= {"count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasterio.open(path, "w", "GTiff", **keys) as target:
        if pixels is not None:
            target.write(pixels)
    return path


@pytest.mark.parametrize("compression", ["deflate", "zstd", "lzw"])
def test_a_file_of_one_strip_that_packs_well_is_no_promise_of_blocks(tmp_path: Path, compression: str) -> None:
    """GDAL shows the rows of a long strip as blocks, and the file has an index of one."""
    pixels = np.full((3, 3000, 100), 7, np.uint8)
    path = written(tmp_path / "strip.tif", pixels, blockysize=3000, compress=compression)
    assert path.stat().st_size < 2 * 3000
    with rasterio.open(path) as source:
        assert source.block_shapes[0] == (1, 100)
    probe_scene(path)


@pytest.mark.parametrize(
    ("index_bytes", "keys"),
    [
        (6, {"width": 1000, "height": 20_000, "blockysize": 1}),  # offsets as LONG, byte counts as SHORT
        (8, {"width": 9600, "height": 9600, "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}),
        (10, {"width": 9600, "height": 9600, "tiled": True, "blockxsize": 64, "blockysize": 64, "BIGTIFF": "YES"}),
    ],
)
def test_files_whose_blocks_are_nearly_all_unwritten_are_taken(
    tmp_path: Path, index_bytes: int, keys: dict[str, Any]
) -> None:
    path = written(tmp_path / "sparse.tif", SPARSE_OK=True, **keys)
    blocks = 20_000 if "blockysize" in keys and keys["blockysize"] == 1 else 150 * 150
    assert path.stat().st_size // blocks == index_bytes
    probe_scene(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_product_whose_tiles_are_sparse_is_taken(tmp_path: Path) -> None:
    """Its virtual raster has blocks of its own, with no index in any file."""
    product = write_maxar(tmp_path, np.full((3, 4096, 4096), 7, np.uint8), 2048)
    for tile in sorted(tmp_path.glob("*.TIF")):
        written(tile, width=2048, height=2048, tiled=True, blockxsize=2048, blockysize=2048, SPARSE_OK=True)
    assert sum(tile.stat().st_size for tile in tmp_path.glob("*.TIF")) < 2 * (4096 // 128) ** 2
    probe_scene(product)


def test_more_blocks_than_a_file_can_have_an_index_of_are_refused(tmp_path: Path) -> None:
    tiles: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 64, "SPARSE_OK": True}
    path = written(tmp_path / "tiles.tif", width=9600, height=9600, **tiles)
    path.write_bytes(with_tag(path.read_bytes(), 257, 9600 * 64))  # ImageLength
    with pytest.raises(SceneRefused, match="declares 1,440,000 blocks in a file of"):
        probe_scene(path)
    strips = written(tmp_path / "strips.tif", width=1000, height=20_000, blockysize=1, SPARSE_OK=True)
    strips.write_bytes(with_tag(strips.read_bytes(), 257, 1_000_000))
    with pytest.raises(SceneRefused, match="cannot be read"):
        probe_scene(strips)


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag of one LONG or SHORT."""
    (at,) = struct.unpack_from("<I", content, 4)
    changed = bytearray(content)
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", content, at)[0], 12):
        if struct.unpack_from("<H", content, entry)[0] == tag:
            struct.pack_into("<HII", changed, entry + 2, 4, 1, value)
    return bytes(changed)


def test_a_large_scene_is_looked_at_in_bounded_memory_whatever_cache_gdal_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of 128 GB GDAL's own cache is 6 GB; the border's search read all of a dark scene into it."""
    # Blocks of a sparse file are decoded to black ones, and 1.2 GB of them are a border all over the scene.
    monkeypatch.setenv("GDAL_CACHEMAX", "6000")
    keys: dict[str, Any] = {"width": 20_000, "height": 20_000, "count": 3, "dtype": "uint8", **PLACE}
    with rasterio.open(tmp_path / "dark.tif", "w", "GTiff", tiled=True, sparse_ok=True, **keys):
        pass
    probe_scene(tmp_path / "dark.tif", limits=Limits(memory_bytes=1 << 30))


def test_a_block_that_takes_more_memory_than_allowed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one-block.tif"
    side = 6000  # decodes to 108 MB at once; the file itself is small
    keys = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "compress": "deflate"}
    with rasterio.open(path, "w", blockysize=side, interleave="pixel", **PLACE, **keys) as target:
        target.write(np.zeros((3, side, side), np.uint8))
    probe_scene(path)
    with pytest.raises(SceneRefused, match=r"the reader died|takes more memory than there is"):
        probe_scene(path, limits=Limits(memory_bytes=64 << 20))


ENDLESS = """
import json, sys
import onboard.scene.probe as probe
def examine(path, *rest):
    while True:
        pass
probe._examine = examine
limits = probe.asdict(probe.Limits(cpu_s=1))
print(json.dumps(probe._in_a_fork({"path": sys.argv[1], "options": {}, "limits": limits})))
"""


def test_a_reader_that_ends_never_is_ended_by_its_processor_time(scene: Path) -> None:
    """Not by the clock: on a busy machine a good scene waits for its turn."""
    words = [sys.executable, "-c", ENDLESS, os.fspath(scene)]
    verdict = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=600).stdout)
    assert verdict == {"died": f"signal {signal.SIGXCPU.value}"}
    with pytest.raises(SceneRefused, match="ran out of processor time: its blocks are absurdly large"):
        _judge(scene, verdict, Limits())
    assert Limits().wall_s >= 10 * Limits().cpu_s


LIMITED = """
import json, resource, sys
import onboard.scene.probe as probe
from onboard.errors import SceneRefused
most = 3 << 30
resource.setrlimit(resource.RLIMIT_AS, (most, most))
request = {"path": sys.argv[1], "options": {}, "limits": probe.asdict(probe.Limits())}
print(json.dumps(probe._in_a_fork(request)))
def examine(path, *rest):
    raise SceneRefused(path, "cannot be read: cannot allocate", probe.LESS_MEMORY)
probe._examine = examine
print(json.dumps(probe._in_a_fork(request)))
"""


def test_a_machine_that_gives_less_memory_than_the_probe_may_have_is_not_the_scenes_fault(scene: Path) -> None:
    words = [sys.executable, "-c", LIMITED, os.fspath(scene)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.fspath(Path(__file__).parents[3])}
    done = subprocess.run(words, capture_output=True, check=True, env=environment)
    sound, refused = (json.loads(line) for line in done.stdout.splitlines())
    assert sound["refused"] == "", "a limit below the probe's own is no failure"
    assert "3,072 MiB that this machine lets a process have" in refused["problem"]
    assert "the scene is sound" in refused["remedy"]


DIES = """
import os, signal, sys
from pathlib import Path
import onboard.scene.probe as probe
whole = probe._examine
def examine(path, *rest):
    if path.name == "deadly.tif":
        os.kill(os.getpid(), signal.SIGSEGV)
    return whole(path, *rest)
probe._examine = examine
probe._serve()
"""


def test_a_reader_that_dies_is_a_refusal_and_the_next_file_is_judged(
    scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, deadly = scene.with_name("python"), scene.with_name("deadly.tif")
    scene.with_name("dies.py").write_text(DIES)
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {scene.with_name('dies.py')}\n")
    python.chmod(0o755)
    deadly.write_bytes(scene.read_bytes())
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).parents[3]))
    monkeypatch.setattr("onboard.scene.probe.sys.executable", os.fspath(python))
    with Probe() as probe:
        with pytest.raises(SceneRefused, match="signal 11"):
            probe.judge(deadly)
        probe.judge(scene)


def test_a_probe_that_is_gone_is_a_refusal_and_another_takes_its_place(
    scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = scene.with_name("python")
    ends.write_text("#!/bin/sh\nexit 0\n")
    ends.chmod(0o755)
    probes = Probes()
    with monkeypatch.context() as patch:
        patch.setattr("onboard.scene.probe.sys.executable", os.fspath(ends))
        with pytest.raises(SceneRefused, match="the probe ended"):
            probes.judge(scene)
    probes.judge(scene)
    probes.close()


def test_many_files_at_once_are_judged_each_by_itself(scene: Path) -> None:
    damaged = scene.with_name("damaged.tif")
    damaged.write_bytes(scene.read_bytes()[:200_000])
    probes = Probes()
    probes.start()

    def verdict(path: Path) -> str:
        try:
            probes.judge(path)
        except SceneRefused:
            return "refused"
        return "taken"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(verdict, [scene, damaged] * 4))
    probes.close()
    assert found == ["taken", "refused"] * 4


def test_options_that_do_not_fit_come_back_as_such(scene: Path) -> None:
    with pytest.raises(OptionsRefused, match="bands 1 to 3"):
        probe_scene(scene, SceneOptions(bands=(1, 2, 9)))


def test_a_truncated_scene_is_refused(scene: Path) -> None:
    scene.write_bytes(scene.read_bytes()[:200_000])
    with pytest.raises(SceneRefused, match="cannot be read"):
        probe_scene(scene)
