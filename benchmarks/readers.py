"""Which readers open what flies and what `ground export` writes: docs/readers.md has the table that this prints.

Each reader runs in a process of its own and tells the codes of every pixel that it read, by their SHA-256; the
project's own rasterio says which codes are right. The readers have environments of their own:

    python3 -m venv out/readers
    out/readers/bin/pip install rasterio rio-tiler rioxarray tifffile imagecodecs pillow async-geotiff obstore pmtiles
    npm install --prefix out/readers-node geotiff georaster
    python -m benchmarks.readers MAP --python out/readers/bin/python --node out/readers-node
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio

DEADLINE_S = 300
FILES = {
    "map.tif": "as it flies: COG, 4 bits, ZSTD", "cog8": "`--format cog8`", "png": "`--format png`",
    "mbtiles": "`--format mbtiles`", "pmtiles": "`--format pmtiles`",
}  # fmt: skip
SUFFIXES = {"cog8": ".tif", "png": ".png", "mbtiles": ".mbtiles", "pmtiles": ".pmtiles"}

_PYTHON = """
import asyncio, hashlib, importlib.metadata, json, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
path = sys.argv[1]
def say(package, codes, note=""):
    codes = np.squeeze(np.ma.getdata(np.asarray(codes)))
    facts = {"version": importlib.metadata.version(package), "note": note, "shape": list(codes.shape)}
    if codes.ndim == 2:
        facts["sha256"] = hashlib.sha256(np.ascontiguousarray(codes, dtype=np.uint8).tobytes()).hexdigest()
    print(json.dumps(facts))
"""
_NODE = """
const fs = require("fs"), crypto = require("crypto");
const path = process.argv[1];
function say(name, width, height, values, note) {
  const codes = Uint8Array.from(values);
  const file = require.resolve(name).split("node_modules/" + name)[0] + "node_modules/" + name + "/package.json";
  console.log(JSON.stringify({version: JSON.parse(fs.readFileSync(file)).version, note: note || "",
    shape: [height, width], sha256: crypto.createHash("sha256").update(codes).digest("hex")}));
}
"""
PYTHON = {
    "rasterio (GDAL)": """
import rasterio
with rasterio.open(path) as file:
    codes, palette = file.read(), file.colormap(1) if file.count == 1 else {}
say("rasterio", codes, f"GDAL {rasterio.__gdal_version__}" + (", palette" if palette else ""))
""",
    "rio-tiler": """
from rio_tiler.io import Reader
with Reader(path) as reader:
    say("rio-tiler", reader.read().data)
""",
    "rioxarray": """
import rioxarray
say("rioxarray", rioxarray.open_rasterio(path).values)
""",
    "tifffile": """
import importlib.metadata, tifffile
say("tifffile", tifffile.imread(path), "imagecodecs " + importlib.metadata.version("imagecodecs"))
""",
    "tifffile alone": """
import sys
sys.modules["imagecodecs"] = None
import tifffile
say("tifffile", tifffile.imread(path), "without imagecodecs")
""",
    "Pillow": """
from PIL import Image
picture = Image.open(path)
say("pillow", picture, "palette" if picture.mode == "P" else "mode " + picture.mode)
""",
    "async-geotiff": """
import os
from async_geotiff import GeoTIFF
from obstore.store import LocalStore
async def read():
    store = LocalStore(os.path.dirname(os.path.abspath(path)))
    return (await (await GeoTIFF.open(os.path.basename(path), store=store)).read()).data
say("async-geotiff", asyncio.run(read()))
""",
    "pmtiles": """
from pmtiles.reader import MmapSource, all_tiles
with open(path, "rb") as file:
    tiles = dict(all_tiles(MmapSource(file)))
say("pmtiles", np.zeros((0,)), f"{len(tiles)} tiles")
""",
}
NODE = {
    "geotiff.js": """
require("geotiff").fromFile(path).then(async (file) => {
  const image = await file.getImage();
  const [values] = await image.readRasters();
  say("geotiff", image.getWidth(), image.getHeight(), values);
  process.exit(0);
}).catch((error) => { console.error(String(error)); process.exit(1); });
""",
    "georaster": """
const data = fs.readFileSync(path);
require("georaster")(data.buffer.slice(data.byteOffset, data.byteOffset + data.length)).then((raster) => {
  say("georaster", raster.width, raster.height, raster.values[0].flatMap((row) => Array.from(row)));
  process.exit(0);
}).catch((error) => { console.error(String(error)); process.exit(1); });
""",
}
TIFFS = ("map.tif", "cog8")
TRIED = {
    "rasterio (GDAL)": (*TIFFS, "png", "mbtiles"), "rio-tiler": (*TIFFS, "png"), "rioxarray": (*TIFFS, "png"),
    "Pillow": (*TIFFS, "png"), "pmtiles": ("pmtiles",),
}  # fmt: skip
"""Formats that a reader is for; the TIFFs where it is not named."""


@dataclass(frozen=True)
class Answer:
    """What a reader made of a file.

    Attributes:
        version: of the reader, empty where it did not open the file.
        text: a cell of the table.
    """

    version: str
    text: str


def main() -> None:
    """Exports the map, tries every reader on every format, prints the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readers", description=__doc__.partition("\n")[0])
    parser.add_argument("map", type=Path, help="a map's folder")
    parser.add_argument("--python", type=Path, required=True, help="with the readers of Python")
    parser.add_argument(
        "--node", type=Path, required=True, help="folder with node_modules of the readers of JavaScript"
    )
    parser.add_argument("--out", type=Path, default=Path("out/exported"))
    options = parser.parse_args()
    files = _exported(options.map, options.out)
    codes = _codes(files["map.tif"])
    rows = [_row(name, [str(options.python), "-c", _PYTHON + code], files, codes, {}) for name, code in PYTHON.items()]
    # Node looks for modules beside the program, and this one has no file.
    modules = {"NODE_PATH": str((options.node / "node_modules").resolve())}
    rows += [_row(name, ["node", "-e", _NODE + code], files, codes, modules) for name, code in NODE.items()]
    print("| reader | " + " | ".join(FILES[kind] for kind in FILES) + " |")
    print("|---" * (len(FILES) + 1) + "|")
    print("\n".join(rows))
    print()
    for kind, path in files.items():
        print(f"{kind}: {path.stat().st_size:,} bytes")


def _exported(folder: Path, out: Path) -> dict[str, Path]:
    """The map and what `ground export` makes of it, by format."""
    files = {"map.tif": folder / "map.tif"}
    for kind, suffix in SUFFIXES.items():
        options = ["--format", kind, "--out", str(out), "--overwrite"]
        command = [sys.executable, "-m", "ground.cli", "export", str(folder), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        files[kind] = out / f"{folder.resolve().name}{suffix}"
    return files


def _codes(path: Path) -> dict[str, Any]:
    with rasterio.open(path) as file:
        codes = file.read(1)
    return {"shape": list(codes.shape), "sha256": hashlib.sha256(codes.tobytes()).hexdigest()}


def _row(
    name: str, command: list[str], files: dict[str, Path], codes: dict[str, Any], variables: dict[str, str]
) -> str:
    tried = TRIED.get(name, TIFFS)
    answers = {kind: _answer([*command, str(files[kind])], codes, variables) for kind in FILES if kind in tried}
    version = next((answer.version for answer in answers.values() if answer.version), "")
    cells = [answers[kind].text if kind in answers else "-" for kind in FILES]
    return f"| {name} {version} | " + " | ".join(cells) + " |"


def _answer(command: list[str], codes: dict[str, Any], variables: dict[str, str]) -> Answer:
    try:
        # Each in a process: one that crashes or hangs costs its own cell.
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=DEADLINE_S, env=os.environ | variables
        )
    except subprocess.TimeoutExpired:
        return Answer("", f"not done after {DEADLINE_S} s")
    if done.returncode:
        lines = done.stderr.splitlines()
        # The last line that begins with an error's name: Python's tracebacks end with it.
        said = [line.strip() for line in lines if re.match(r"\S*Error", line)] or [f"exit code {done.returncode}"]
        return Answer("", f"no: {said[-1][:100].replace('|', '/')}")
    # The last line: some libraries print to standard output before.
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    note = f" ({facts['note']})" if facts["note"] else ""
    # Every pixel, or it does not count: readers that scale or stretch open the file as well.
    if facts.get("sha256") == codes["sha256"] and facts["shape"] == codes["shape"]:
        return Answer(facts["version"], f"yes{note}")
    if "sha256" in facts:
        return Answer(facts["version"], f"other values{note}")
    return Answer(facts["version"], f"yes, as colours{note}" if facts["shape"] != [0] else f"yes{note}")


if __name__ == "__main__":
    main()
