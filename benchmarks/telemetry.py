"""Telemetry: cost of the sampler, size and speed of the history, a replayed day, a picture of the governor."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.plant import Plant, best_duty, simulate, turns, window_means
from onboard.jobs.reconcile import open_ledger
from onboard.power.governor import Limits
from onboard.settings import read_settings
from telemetry.discover import sources
from telemetry.history import LEVELS, History, Reader
from telemetry.sampler import Sampler
from telemetry.sources.sysfs import SysfsSource
from tests.telemetry.trees import orin_nx, set_power

DAY_S = 86400


def telemetry(folder: Path, *, quick: bool) -> None:
    """Prints all of it; draws FOLDER/governor.png unless quick."""
    _cost(seconds=3 if quick else 20)
    _whole_process(seconds=5 if quick else 30)
    _day(folder, hours=1 if quick else 24)
    _governor(days=0.25 if quick else 1.0, picture=None if quick else folder / "governor.png")


def _cost(seconds: float) -> None:
    """Processor time of the sampler at 10 Hz on a made file tree, beside what this process takes without it."""
    with tempfile.TemporaryDirectory() as name:
        root = orin_nx(Path(name))
        history = History(Path(name) / "history.sqlite")
        clock = [0.0]
        sampler = _replayed(root, clock, history)
        sampler.turn()
        # Turns are run without waiting: what a turn costs is measured, not what the scheduler grants.
        count = int(10 * seconds)
        begin = time.process_time()
        for _ in range(count):
            sampler.turn()
            clock[0] += 0.1
        took = time.process_time() - begin
        history.close()
    share = 100 * took / (count / 10)
    print("sampler at 10 Hz, replayed tree of an Orin NX, history included (the I2C bus is not):")
    print(f"  {1e6 * took / count:.0f} us a turn, {share:.2f} % of one core (wanted: under 0.5 %)")


def _whole_process(seconds: float) -> None:
    """Processor time and memory of the real sampling process on the same tree: lines, events and waking included."""
    with tempfile.TemporaryDirectory() as name:
        root = orin_nx(Path(name) / "board")
        settings = {"ONBOARD_DATA_DIR": f"{name}/data", "ONBOARD_TELEMETRY_ROOT": str(root)}
        with open_ledger(read_settings(data_dir=Path(name) / "data")):
            reading, writing = os.pipe()
            command = [sys.executable, "-m", "onboard.processes.sampling", "--out", str(writing)]
            # As the supervisor starts it: lines through a pipe whose number is an argument.
            process = subprocess.Popen(command, pass_fds=[writing], stdin=subprocess.PIPE, env=os.environ | settings)
            # Else the reading end would never see the process's end.
            os.close(writing)
            lines = os.fdopen(reading, "rb")
            next(lines)  # it is at work
            before, begin = _cpu_s(process.pid), time.monotonic()
            while time.monotonic() - begin < seconds:
                next(lines)
            took, spent = time.monotonic() - begin, _cpu_s(process.pid) - before
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            process.terminate()
            process.communicate()
            lines.close()
    share, resident = 100 * spent / took, pages * resource.getpagesize() / 2**20
    print(f"  the whole sampling process: {share:.2f} % of one core, {resident:.0f} MiB resident")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _replayed(root: Path, clock: list[float], history: History) -> Sampler:
    """A sampler whose sources live by the benchmark's clock: every ten seconds of it they look for files again."""
    replayed_sources = sources(root)
    for source in replayed_sources:
        if isinstance(source, SysfsSource):
            source.clock = lambda: clock[0]
    return Sampler(replayed_sources, 0.1, [lambda sample: history.add(sample.values())], lambda: clock[0])


def _day(folder: Path, hours: float) -> None:
    """A day of samples through sampler and history in a process of its own: size, memory, and a pass's query."""
    path = folder / "day" / "history.sqlite"
    for old in path.parent.glob("*"):
        old.unlink()
    command = [sys.executable, "-m", "benchmarks.telemetry", str(path), str(hours)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    print(done.stdout, end="")
    size = sum(file.stat().st_size for file in path.parent.glob("history.sqlite*"))
    fields = sum(name.endswith(".mean") for name in Reader(path).query(step_s=60, limit=1).columns)
    print(f"history after {hours:g} h at 10 Hz, {fields} fields: {size / 1e6:.1f} MB on disk")
    for step in (60.0, 10.0):
        begin = time.perf_counter()
        pages, since, rows, text = 0, None, 0, 0
        while True:
            # Page by page as a station asks, a new reader each, since each request opens one.
            page = Reader(path).query(since=since, step_s=step, limit=5000)
            rows += len(page.columns["tick"])
            text += _csv_bytes(page.columns)
            pages += 1
            since = page.next
            if since is None:
                break
        took = time.perf_counter() - begin
        size_mb = text / 1e6
        print(f"history at {page.step_s:g} s: {rows:,} rows in {took:.2f} s, {size_mb:.2f} MB as gzipped CSV")


def _csv_bytes(columns: dict[str, NDArray[Any]]) -> int:
    import gzip

    rows = zip(*columns.values(), strict=True)
    lines = [",".join("" if np.isnan(value) else f"{value:.5g}" for value in row) for row in rows]
    return len(gzip.compress("\n".join(lines).encode(), 6))


def _replay(path: Path, hours: float) -> None:
    """Runs in a process of its own: its memory is looked at after a tenth of the time and at the end."""
    rng = np.random.default_rng(0)
    clock = [0.0]
    with tempfile.TemporaryDirectory() as name:
        root = orin_nx(Path(name))
        history = History(path, LEVELS, lambda: clock[0], lambda: 1.8e9 + clock[0])
        sampler = _replayed(root, clock, history)
        count = int(hours * 36000)
        early = 0
        for step in range(count):
            # Every five seconds: writing the made files is not what is measured.
            if step % 50 == 0:
                set_power(root, 12 + 6 * float(np.sin(step / 3000)) + float(rng.normal()))
            sampler.turn()
            clock[0] += 0.1
            # A tenth is enough for caches to fill: what grows after it is a leak.
            if step == count // 10:
                early = _resident()
        late = _resident()
        energy = sampler.energy["power_w:VDD_IN"]
        history.close()
    print(
        f"replayed {hours:g} h: memory {early / 2**20:.1f} MiB after a tenth, {late / 2**20:.1f} MiB at the end; "
        f"{energy.joules / 1e3:.1f} kJ over {energy.covered_s:,.0f} s, gaps {energy.gap_s:.0f} s"
    )


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _governor(days: float, picture: Path | None) -> None:
    """Budget and throughput over plants whose constants vary threefold, and the picture of one of them."""
    seconds = int(days * DAY_S)
    worst, least, fastest, hot = 0.0, 1e9, 1e9, 1e9
    # Over a factor of three, about what the paper measured and what is assumed.
    for load in (3**-0.5, 1.0, 3**0.5):
        for heat in (3**-0.5, 1.0, 3**0.5):
            # Resistance falls with the load, so that `heat` alone decides how hot a board gets.
            plant = Plant(rest_w=5.74 * load, work_w=18.95 * load, k_per_w=2.2 * heat / load, j_per_k=60 * heat)
            limits = Limits(mean_w=plant.rest_w + 0.5 * (plant.work_w - plant.rest_w))
            trace = simulate(plant, limits, seconds)
            assert limits.mean_w is not None  # noqa: S101 -- given above
            worst = max(worst, window_means(trace.power_w, int(limits.window_s)).max() / limits.mean_w)
            least = min(least, trace.work.mean() / best_duty(plant, limits))
            fastest = min(fastest, float(turns(trace.work).min()))
            warm = Limits(hot_c=plant.ambient_c + plant.k_per_w * (plant.rest_w + plant.work_w) / 2)
            hot = min(hot, simulate(plant, warm, seconds).work.mean() / best_duty(plant, warm))
    print(f"governor over {days:g} days on 9 plants it does not know (silences, noise, lost and late readings):")
    print(f"  highest mean of any window / allowed {worst:.3f} (wanted: 1.02 at most)")
    print(f"  work / best constant duty            {least:.3f} at least (wanted: 0.9)")
    print(f"  shortest turn of work and rest       {fastest:.0f} s (set: 20 s)")
    print(f"  the same where heat is the limit     {hot:.3f} at least (hysteresis costs the rest)")
    if picture is not None:
        draw_governor(picture)
        print(f"  picture: {picture}")


def draw_governor(picture: Path) -> None:
    """Three orbits of one board, with every limit set."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plant = Plant()
    limits = Limits(mean_w=12.0, orbit_j=11.0 * 5700, hot_c=51.0)
    trace = simulate(plant, limits, 3 * 5700, seed=1)
    minutes = np.arange(len(trace.power_w)) / 60
    width = int(limits.window_s)
    # Full, then cut: each point is the mean of the window that ends there, as the governor keeps it.
    mean = np.convolve(trace.power_w, np.ones(width) / width, "full")[: len(minutes)]
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            3, 1, figsize=(9, 6), sharex=True, height_ratios=(2, 1.4, 0.8), layout="constrained"
        )
        axes[0].plot(minutes, trace.power_w, color="#0072B2", linewidth=0.4, alpha=0.6)
        axes[0].plot(minutes[width:], mean[width:], color="#D55E00", linewidth=1.6)
        axes[0].axhline(12.0, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
        axes[0].set_ylabel("power, W")
        axes[0].set_ylim(0, 24)
        axes[0].set_title(
            "Blue: power. Orange: mean of the last 10 minutes, 12 W allowed (dashed). 62.7 kJ allowed an orbit.",
            loc="left", fontsize=8.5, color="#555555",
        )  # fmt: skip
        axes[1].plot(minutes, trace.heat_c, color="#CC79A7", linewidth=1)
        axes[1].axhline(51.0, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
        axes[1].set_ylabel("heat, °C")
        order = ["working", "pacing", "hot", "orbit", "blind"]
        colours = dict(zip(order, ("#009E73", "#E69F00", "#CC79A7", "#0072B2", "#555555"), strict=True))
        for number, state in enumerate(order):
            in_state = np.array([current == state for current in trace.states])
            axes[2].fill_between(
                minutes, number, number + 0.8, where=in_state, color=colours[state], linewidth=0, step="post"
            )
        axes[2].set_yticks([number + 0.4 for number in range(len(order))], order)
        axes[2].tick_params(axis="y", length=0)
        for axis in axes:
            for orbit in (95, 190):
                axis.axvline(orbit, color="#BBBBBB", linewidth=0.8)
        axes[2].set_xlabel("minutes; grey lines are the ends of orbits")
        axes[2].set_xlim(0, minutes[-1])
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    _replay(Path(sys.argv[1]), float(sys.argv[2]))
