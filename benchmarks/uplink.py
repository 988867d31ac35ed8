"""Bytes up the link for a retrained head: pushed to a real service, whole and as differences."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.satellite import Station, retrained, satellite
from engines.open import SHIPPED
from ground.show import size
from onboard.files import sha256_file

WHOLE_MODEL = 34_580_222
"""Bytes of the graph of dubai-lite, which a retrained model was before there were heads."""
CASES = (("FP32", "landcover"), ("FP16", "landcover-fp16"))
HEAD = "landcover"


def bytes_of_a_head(folder: Path, *, quick: bool) -> None:
    """Prints what a head of the shipped models takes up, files, list and manifest, for two sizes of change."""
    print("bytes that the satellite has kept, list and manifest among them; noise stands for the training")
    for title, name in CASES[:1] if quick else CASES:
        model = SHIPPED / name
        whole = sum(file.stat().st_size for file in model.iterdir())
        print(f"{title}: head {HEAD} of {name}, the whole model {size(whole)}")
        for noise in (0.05,) if quick else (0.05, 0.005):
            new = retrained(model, HEAD, folder / "uplink-new", version="9.0.0", noise=noise)
            sent = {way: _pushed(folder, model, new, way) for way in ("whole", "difference")}
            for way, (count, ways) in sent.items():
                share = f"1/{WHOLE_MODEL / count:.0f} of 34.6 MB, 1/{whole / count:.0f} of the model"
                print(f"  noise {noise:.1%}, {way:10s} {size(count):>8s}  {share}")
                print(f"    {ways}")


def _pushed(folder: Path, model: Path, new: Path, way: str) -> tuple[int, str]:
    """Bytes sent, and how each file went."""
    # New keys and an empty cache each time: nothing of the other way is left.
    station = Station.new(folder / "uplink-station")
    station.sign(new)
    options = ["--whole"] if way == "whole" else ["--base", str(model)]
    with satellite(folder / "uplink-data", model, station) as client:
        report = station.push(new, str(client.base_url), *options)
    if report["left_bytes"]:
        raise RuntimeError(f"{report['left_bytes']} bytes did not come")
    return report["sent_bytes"], ", ".join(
        f"{name} {_way(text, new / name, station, model / name)}" for name, text in report["ways"].items()
    )


def _way(text: str, path: Path, station: Station, old: Path) -> str:
    """How a file went, and whether its base is the old file of its name."""
    if text == "whole":
        return size(path.stat().st_size)
    method, count = text.partition(",")[0], int(re.sub(r"\D", "", text.partition(",")[2].partition("bytes")[0]))
    made = f"{sha256_file(path)}.{sha256_file(old)}.{method}"
    against = " against the old one" if list((station.folder / "cache").rglob(made)) else ""
    return f"{size(count)} by {method}{against}"
