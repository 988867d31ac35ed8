"""Tables and pictures of the comparison with other tools: docs/benchmarks.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rasterio

from benchmarks.peers.checklist import QUESTIONS
from benchmarks.peers.tools import TOOLS
from benchmarks.scaling import STEPS

Results = dict[str, Any]


def write_report(results: Results, folder: Path) -> None:
    """Writes a page beside the folder of results, and a picture of each scene's figures into it."""
    machine = results["machine"]
    lines = [
        "# Beside other tools",
        "",
        f"Written by `make bench-peers`; every figure is from {folder.name}/peers.json.",
        "",
        f"Conditions: {machine['processor']}, {machine['threads']} threads, Python {machine['python']}, "
        f"{machine['date']}. Model {machine['model']}, tiles of {machine['tile']} pixels, one tile in a call, FP32 in "
        f"ONNX Runtime for all tools, overlap of {machine['overlap']} pixels. The machine's speed varied, so each "
        "round ran all tools.",
        "",
        "| column | means |",
        "|---|---|",
        "| s | seconds from the file to the georeferenced map, without imports and the opening of the model: median "
        "of the rounds (minimum to maximum) |",
        "| over onboard | these seconds over those of onboard: median of the ratios within a round |",
        "| peak MiB | largest memory of the whole process |",
        "| unlike near, elsewhere | share of pixels whose class differs from the reference: within 32 pixels of a "
        "line where tiles begin, end or are cut, and elsewhere. The reference is a map of probabilities averaged over "
        "tiles that overlap by more than three quarters. Tools that average probabilities are nearer to it "
        "everywhere |",
        "| seam | the first less the second, in points: what a map owes to where its tiles lie |",
        "",
        "| row | means |",
        "|---|---|",
        '| "no overlap" | a tool\'s own cheapest setting |',
        f'| "onboard, its default" | `onboard process` as installed: halo {machine["default_halo"]}, the backend that '
        "`auto` takes. Only the rows called its default run in bfloat16: compare like with like |",
    ]
    for name, scene in results["scenes"].items():
        lines += ["", f"## {scene['title']}", "", *_table(scene["tools"])]
        lines += ["", *_differences(scene)] if scene.get("differences") else []
        draw(scene, folder / f"peers-{name}.png")
        lines += ["", f"![seconds and memory]({folder.name}/peers-{name}.png)"]
    if "checklist" in results:
        lines += ["", "## What the map keeps of the scene", "", *_checklist(results)]
    # Of what was run, not of what is installed when the page is written.
    versions = {
        row["title"].split(",")[0]: row["runs"][0]["version"]
        for scene in results["scenes"].values() for name, row in scene["tools"].items()
        if row["runs"] and TOOLS[name].package
    } | {"rasterio": rasterio.__version__}  # fmt: skip
    lines += ["", "Versions: " + ", ".join(f"{title} {version}" for title, version in versions.items()) + ".", ""]
    if (folder / "seams.json").exists():
        lines += ["", "## Seams against halo", "", *_seams(folder)]
    if (folder / "scaling.json").exists():
        lines += ["", "", "## Where the time goes between file and map", "", *_scaling(folder)]
    folder.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")


def _table(tools: Results) -> list[str]:
    labelled = any("miou" in row.get("quality", {}) for row in tools.values())
    head = ["tool", "s", "over onboard", "tiles", "in the model", "peak MiB", "written MB", "map kB"]
    head += ["unlike near", "elsewhere", "seam"]
    if labelled:
        head.append("mIoU")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    base = tools.get("onboard", {}).get("runs", [])
    # In the order of TOOLS, not in that of the runs.
    for row in (tools[name] for name in TOOLS if name in tools):
        if not row["runs"]:
            lines.append(f"| {row['title']} | failed: {row.get('failed', '')[:90]} |" + " |" * (len(head) - 2))
            continue
        seconds, quality = _median(row, "seconds"), row.get("quality", {})
        cells = [
            row["title"], _spread(row), _over(row["runs"], base), str(row["runs"][-1]["tiles"]),
            f"{_median(row, 'model_s') / seconds:.0%}", f"{_median(row, 'peak_mib'):,.0f}",
            f"{_median(row, 'written_bytes') / 1e6:,.1f}", f"{row['runs'][-1]['map_bytes'] / 1e3:,.0f}",
            _percent(quality.get("near")), _percent(quality.get("elsewhere")), _seam(quality),
        ]  # fmt: skip
        if "wrong" in quality:
            # In place of the three figures of quality.
            cells[-3:] = [quality["wrong"], "", ""]
        if labelled:
            cells.append(f"{quality['miou']:.4f}" if "miou" in quality else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _differences(scene: Results) -> list[str]:
    """Ours beside each tool that overlaps: how many times as fast, and what is unlike the reference beyond theirs."""
    tools = scene["tools"]
    ours = [name for name in TOOLS if name in scene["differences"]]
    lines = [
        "Onboard against each tool. Speed: how many times as fast onboard is. Near and seam: onboard's figure less the "
        "tool's, in points; below 0 onboard is better. In brackets: 95 % of resamplings of blocks of 256 pixels.",
        "",
        "| tool | " + " | ".join(f"{tools[name]['title']}: speed | near | seam" for name in ours) + " |",
        "|---|" + "---|---|---|" * len(ours),
    ]
    others = {other for name in ours for other in scene["differences"][name]}
    for other in (name for name in TOOLS if name in others):
        cells = [tools[other]["title"]]
        for name in ours:
            difference = scene["differences"][name].get(other)
            cells.append(_over(tools[other]["runs"], tools[name]["runs"]))
            # Speed can be compared where quality cannot, as with a tool without overlap.
            cells += ["", ""] if difference is None else [_interval(difference[kind]) for kind in ("near", "seam")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _interval(bounds: Sequence[float]) -> str:
    value, low, high = bounds
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def _checklist(results: Results) -> list[str]:
    titles = {name: row["title"] for scene in results["scenes"].values() for name, row in scene["tools"].items()}
    lines = ["| tool | " + " | ".join(QUESTIONS) + " |", "|" + "---|" * (len(QUESTIONS) + 1)]
    words = {True: "yes", False: "no", None: "fails"}
    for name in (name for name in TOOLS if name in results["checklist"]):
        row = results["checklist"][name]
        cells = " | ".join(words[row[question]] for question in QUESTIONS)
        lines.append(f"| {titles.get(name, name)} | {cells} |")
    return lines


def _seams(folder: Path) -> list[str]:
    document = json.loads((folder / "seams.json").read_text(encoding="utf-8"))
    lines = [
        f"`python -m benchmarks.seams`: {document['model']} on {', '.join(document['scenes'])}. The model was fitted "
        "on these scenes, so only differences mean something.",
        "",
        "- Cut: each pixel comes from the core of one tile, as aboard. Blended: probabilities are averaged by linear "
        "ramps.",
        '- "A tile gives" counts the pixels that a tile adds inside a large scene.',
        "- Halos that lead to the same number of tiles on these scenes make the same map.",
        "",
        f"![seams against halo]({folder.name}/seams.png)",
        "",
        "| halo | a tile gives | cut: unlike near borders | elsewhere | mIoU | blended: near | elsewhere | mIoU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = {(row["way"], row["halo"]): row for row in document["rows"]}
    for halo in sorted({halo for way, halo in rows if way == "cut"}):
        cut, blended = rows["cut", halo], rows["blended", halo]
        figures = " | ".join(
            f"{row['near']:.2%} | {row['elsewhere']:.2%} | {row['miou']:.4f}" for row in (cut, blended)
        )
        lines.append(f"| {halo} | {cut['pixels_a_tile'] / 1e6:.2f} Mpx | {figures} |")
    return [*lines, "", f"The reference itself has mIoU {rows['reference', 0]['miou']:.4f}."]


def _scaling(folder: Path) -> list[str]:
    rows = json.loads((folder / "scaling.json").read_text(encoding="utf-8"))
    last = rows[-1]
    lines = [
        "`python -m benchmarks scaling`, on landscapes drawn by a program, halo 64.",
        "",
        "- With an engine that costs nothing, everything else shows. A part of the cost is the same for every scene; "
        "small scenes spread it over few pixels.",
        f"- As installed ({last['installed']}), once each, the pixels computed for one of the map decide: tiles "
        "overlap, and the last ones reach over. A scene of 2,000 pixels a side is just too wide for two tiles of 1024, "
        "and gets nine [smaller ones](models.md#sides-of-tiles).",
        "- While tiles are mapped, blocks of finished rows are packed; reading, inferring and writing go on side by "
        "side.",
        "",
        f"![cost a pixel, and its parts]({folder.name}/scaling.png)",
        "",
        "| scene | ns a pixel, free engine: median (minimum to maximum) | ns a pixel, as installed | tiles | pixels "
        "computed for one of the map |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        costs = row["ns"]
        spread = f"{statistics.median(costs):.0f} ({min(costs):.0f} to {max(costs):.0f})"
        tiles = f"{row['tiles']} of {row['tile']} | {row['computed']:.2f}"
        lines.append(f"| {row['side']:,} x {row['side']:,} | {spread} | {row['installed_ns']:.0f} | {tiles} |")
    lines += ["", f"| step, {last['side']:,} x {last['side']:,} | seconds |", "|---|---|"]
    steps = {STEPS.get(name, name): seconds for name, seconds in last["steps"].items()}
    return lines + [f"| {title} | {seconds:.2f} |" for title, seconds in steps.items()]


def draw(scene: Results, path: Path) -> None:
    """Seconds, in the model and beside it, and peak memory, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    # barh draws from the bottom up.
    rows = [scene["tools"][name] for name in TOOLS if scene["tools"].get(name, {}).get("runs")][::-1]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 0.32 * len(rows) + 1.2), sharey=True, constrained_layout=True
    )
    titles = [row["title"] for row in rows]
    model = [_median(row, "model_s") for row in rows]
    rest = [_median(row, "seconds") - inside for row, inside in zip(rows, model, strict=True)]
    own = ["#0072b2" if row["title"].startswith("onboard") else "#999999" for row in rows]
    left.barh(titles, model, color=own)
    left.barh(titles, rest, left=model, color="#d55e00", label="not in the model")
    right.barh(titles, [_median(row, "peak_mib") for row in rows], color=own)
    left.set_xlabel("seconds from file to map")
    right.set_xlabel("peak memory, MiB")
    left.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _median(row: Results, key: str) -> float:
    return float(statistics.median(run[key] for run in row["runs"]))


def _over(runs: Sequence[Results], base: Sequence[Results]) -> str:
    """Median over the rounds that both ran: a machine that is slow for a round is slow for both."""
    theirs = {run["round"]: run["seconds"] for run in base}
    ratios = [run["seconds"] / theirs[run["round"]] for run in runs if run["round"] in theirs]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def _spread(row: Results) -> str:
    seconds: Sequence[float] = [run["seconds"] for run in row["runs"]]
    middle = f"{statistics.median(seconds):.1f}"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.1f} to {max(seconds):.1f})"


def _seam(quality: Results) -> str:
    """Points by which pixels near borders are worse than the others."""
    near, elsewhere = quality.get("near"), quality.get("elsewhere")
    if near is None or elsewhere is None or near != near or elsewhere != elsewhere:  # noqa: PLR0124 - not a number
        return ""
    return f"{100 * (near - elsewhere):+.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None or share != share else f"{share:.2%}"  # noqa: PLR0124 - not a number
