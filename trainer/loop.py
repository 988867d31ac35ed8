"""The training loop, for any task: what is learnt is the task's business, when and how fast is the loop's.

Everything drawn by chance follows from the seed and the step alone, never from what ran before: a resumed run repeats
an uninterrupted one, and several processes draw what one would have drawn.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainer.checkpoint import State, checkout_commit, has_checkpoint, read_checkpoint, read_facts, write_checkpoint
from trainer.config import RunSettings, Stage
from trainer.errors import RunInterrupted, SettingsRefused
from trainer.record import Record, written
from trainer.same_run import check_same_run
from trainer.schedule import elapsed_share, learning_rate, stage_at
from trainer.weight_average import WeightAverage

log = logging.getLogger(__name__)
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Slice:
    """Which images of a step's batch are to be drawn: ``numbers``, of 0 .. ``stage.batch`` - 1."""

    step: int
    stage: Stage
    numbers: range


class Task(Protocol):
    """What is learnt.

    Attributes:
        network: everything with weights; frozen parts do not require gradients.
        samples: images in an epoch, None where crops are drawn without end.
        saves_frozen: whether checkpoints hold weights that do not learn.
    """

    network: nn.Module

    @property
    def samples(self) -> int | None:
        """See above."""

    @property
    def saves_frozen(self) -> bool:
        """See above."""

    def draw(self, part: Slice) -> Batch:
        """Tensors of these images, first axis = image; the same for the same part. May run in a worker process."""

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name, each a mean over the images; "total" is what is descended.

        Calls ``network``, not the task's own: it may be wrapped.
        """

    def after_step(self, losses: dict[str, float]) -> dict[str, float | str]:
        """Takes the step's losses, the same on all processes; gives what else is to be recorded."""

    def state(self) -> dict[str, Any]:
        """What ``after_step`` remembers, JSON-able."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state` gave."""

    def show(self, folder: Path, step: int) -> None:
        """Draws pictures of how it goes, if there is something to see. Runs on one process."""


class Steps(Dataset[Batch]):
    """One process's micro-batches in their order, numbered from 0 through the whole run."""

    def __init__(self, task: Task, stage: Stage, *, rank: int, world: int, accumulate: int) -> None:
        self.task, self.stage, self.rank, self.world, self.accumulate = task, stage, rank, world, accumulate
        self.count = stage.batch // (world * accumulate)

    def __getitem__(self, number: int) -> Batch:
        step, micro = divmod(number, self.accumulate)
        first = (micro * self.world + self.rank) * self.count
        return self.task.draw(Slice(step, self.stage, range(first, first + self.count)))


class Run:
    """One run of a task: network, average, optimiser, and how far it has come.

    Args:
        settings: of the run.
        task: what is learnt.
        folder: where checkpoints, record and pictures go; a run found there is taken up.
        fabric: launched already.
        clock: seconds, monotonic.

    Raises:
        SettingsRefused: a batch does not divide among processes, or epochs are asked for where there are none.
        CheckpointRefused: the folder holds a run of another network or of other settings.
    """

    def __init__(
        self,
        settings: RunSettings,
        task: Task,
        folder: Path,
        fabric: Fabric | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self.task, self.folder, self.clock = settings, task, folder, clock
        self.fabric = fabric or fabric_of(settings)
        self._check_batches()
        self.max_steps = _steps_of(settings, task)
        optimiser = torch.optim.AdamW(_groups(task.network, settings.weight_decay), lr=0.0, betas=settings.betas)
        self.network, self.optimiser = self.fabric.setup(task.network, optimiser)
        average = WeightAverage(task.network, settings.average)
        self.state = State(self.network, self.optimiser, average, task.saves_frozen)
        self.commit = checkout_commit()
        self.step, self.images, self.pixels = 0, 0, 0
        self.seconds = 0.0
        self.resumed = self._resume()
        self.record: Record | None = None

    @property
    def share(self) -> float:
        """Elapsed share of the run, 0..1."""
        return elapsed_share(self.settings, max_steps=self.max_steps, step=self.step, seconds=self.seconds)

    def save(self) -> None:
        """Checkpoint into the folder.

        Raises:
            CheckpointNotWritten: the disk is full or failed; the last good one is still there.
        """
        facts = {
            "step": self.step, "images": self.images, "pixels": self.pixels, "seconds": self.seconds,
            "task": self.task.state(), "settings": self.settings.model_dump(mode="json"), "commit": self.commit,
            "device": _device_in_words(self.fabric),
        }  # fmt: skip
        write_checkpoint(self.folder, self.state, facts, writes=self.fabric.is_global_zero)
        self.fabric.barrier()

    def go(self, report: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Learn until the budget is spent; reports each step's losses; saves every few minutes and at the end.

        Raises:
            RunInterrupted: SIGINT or SIGTERM came; the state was saved.
            CheckpointNotWritten: the disk is full or failed; the last good checkpoint is still there.
        """
        self.network.train()
        try:
            with written(self.folder):
                self.record = Record(self.folder, self.step) if self.fabric.is_global_zero else None
            self._to_the_end(report)
            if self.record is not None:
                with written(self.folder):
                    self.record.draw()
        finally:
            if self.record is not None:
                self.record.close()

    def _to_the_end(self, report: Callable[[int, dict[str, float]], None] | None) -> None:
        began, before, saved = self.clock(), self.seconds, self.clock()
        with _told_to_stop() as told:
            while self.share < 1.0:
                stage = stage_at(self.settings, self.share)
                with closing(self._batches(stage)) as steps:
                    while self.share < min(stage.until, 1.0):
                        losses = self.learn(next(steps), stopping=bool(told))
                        self.seconds = self._agreed(before + self.clock() - began)
                        if report is not None:
                            report(self.step, losses)
                        if losses["stopping"] > 0:
                            self.save()
                            raise RunInterrupted(self.folder, self.step)
                        if self._is_time_to_save(self.clock() - saved):
                            self.save()
                            saved = self.clock()
        self.save()

    def _is_time_to_save(self, seconds: float) -> bool:
        """By steps, the same on all processes; by the clock where there is one process to look at it."""
        by_clock = self.fabric.world_size == 1 and seconds > 60 * self.settings.checkpoint_minutes
        return by_clock or self.step % self.settings.checkpoint_steps == 0

    def learn(self, batches: Iterator[Batch], *, stopping: bool = False) -> dict[str, float]:
        """One step; the losses before it, their mean over all processes. A gradient that is not finite teaches nothing.

        Args:
            batches: micro-batches, as many as are accumulated.
            stopping: this process was told to stop; comes back over 0 as "stopping" if any was.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.share) * group["share"]
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
        accumulate, told = self.settings.machine.accumulate, []
        for micro, batch in enumerate(batches, start=1):
            with self.fabric.no_backward_sync(self.network, enabled=micro < accumulate):
                losses = self.task.losses(self.network, batch)
                self.fabric.backward(losses["total"] / accumulate)
            told.append({name: value.detach().float() for name, value in losses.items()})
            self.images += len(batch[0]) * self.fabric.world_size
            self.pixels += batch[0][:, 0].numel() * self.fabric.world_size
        norm = self.fabric.clip_gradients(
            self.network, self.optimiser, max_norm=self.settings.gradient_norm, error_if_nonfinite=False
        )
        values = torch.stack([torch.stack([part[name] for part in told]).mean() for name in told[0]])
        values = torch.cat([values, values.new_tensor([float(stopping)])])
        reduced = self.fabric.all_reduce(values, reduce_op="mean").tolist()  # type: ignore[union-attr]
        means = dict(zip([*told[0], "stopping"], reduced, strict=True))
        if math.isfinite(float(norm)):  # type: ignore[arg-type]
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.state.average.update(self.step)
        self._note(means)
        return means

    def _note(self, losses: dict[str, float]) -> None:
        more = self.task.after_step(losses)
        if self.record is None:
            return
        facts = {"images": self.images, "learning_rate": self.optimiser.param_groups[0]["lr"]}
        memory = torch.cuda.max_memory_allocated() / 2**20 if self.fabric.device.type == "cuda" else None
        shown = {name: value for name, value in losses.items() if name != "stopping"}
        with written(self.folder):
            self.record.add(self.step, {**shown, **more, **facts, "gpu_memory_mib": memory}, seconds=self.seconds)
            if self.settings.picture_steps and self.step % self.settings.picture_steps == 0:
                self.record.draw()
                self.task.show(self.folder, self.step)

    def _batches(self, stage: Stage) -> Generator[Iterator[Batch], None, None]:
        """The micro-batches of one step after another, from where the run is, without end."""
        machine = self.settings.machine
        steps = Steps(
            self.task, stage, rank=self.fabric.global_rank, world=self.fabric.world_size, accumulate=machine.accumulate
        )
        loader: DataLoader[Batch] = DataLoader(
            steps, batch_size=None, sampler=_Counting(self.step * machine.accumulate), num_workers=machine.workers,
            pin_memory=self.fabric.device.type == "cuda", worker_init_fn=_leave_interrupts_to_the_run,
            generator=torch.Generator(),  # its own: a loader that starts takes nothing from the step's chance
        )  # fmt: skip
        drawn: Iterator[Batch] = iter(self.fabric.setup_dataloaders(loader, use_distributed_sampler=False))  # type: ignore[arg-type]
        while True:
            yield (next(drawn) for _ in range(machine.accumulate))

    def _agreed(self, seconds: float) -> float:
        """The first process's clock: all must see the same share of the run."""
        return float(self.fabric.broadcast(seconds)) if self.fabric.world_size > 1 else seconds

    def _resume(self) -> bool:
        if has_checkpoint(self.folder):
            check_same_run(self.folder, read_facts(self.folder).get("settings", {}), self.settings)
        facts = read_checkpoint(self.folder, self.state)
        if facts is None:
            return False
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.images, self.pixels = facts["images"], facts["pixels"]
        self.task.load_state(facts["task"])
        return True

    def _check_batches(self) -> None:
        parts = self.fabric.world_size * self.settings.machine.accumulate
        odd = [stage.batch for stage in self.settings.stages if stage.batch % parts]
        if odd:
            raise SettingsRefused(
                self.settings.name, f"batches {odd} do not divide by {parts} (processes x accumulated micro-batches)"
            )


def _leave_interrupts_to_the_run(_: int) -> None:
    """Ctrl-C reaches all processes of a terminal: a worker that died of it would end the run before it is saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Counting:
    """first, first + 1, ... without end: a sampler."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        number = self.first
        while True:
            yield number
            number += 1


def fabric_of(settings: RunSettings) -> Fabric:
    """The processes and devices of a run, launched: under torchrun or SLURM it joins them, else it starts them.

    Raises:
        SettingsRefused: no such accelerator here, or not so many.
    """
    machine = settings.machine
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    try:
        fabric = Fabric(
            accelerator=machine.accelerator, devices=machine.devices, num_nodes=machine.nodes,
            strategy=machine.strategy, precision=machine.precision,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:  # an accelerator that is not here, or fewer of them
        told = " ".join(str(error).split())
        raise SettingsRefused(settings.name, f"`machine` asks for what this one has not: {told}") from error
    fabric.launch()
    return fabric


def run_to_end(settings: RunSettings, task: Task, folder: Path, fabric: Fabric) -> Run:
    """Resume or start a run, log now and then, see it through, and draw its curves."""
    run = Run(settings, task, folder, fabric)
    if run.resumed:
        log.info("resumed at step %d, %.0f s", run.step, run.seconds)

    def report(step: int, losses: dict[str, float]) -> None:
        if step % settings.log_steps == 0 and fabric.is_global_zero:
            told = " ".join(f"{name} {value:.4f}" for name, value in losses.items() if name != "stopping")
            log.info("step %d, %.1f %%, %.2f images/s: %s", step, 100 * run.share, run.images / run.seconds, told)

    run.go(report)
    if fabric.is_global_zero:
        log.info("done: %d steps, %d images, %.0f s", run.step, run.images, run.seconds)
    return run


def _device_in_words(fabric: Fabric) -> str:
    """What the processes of a run run on; the first one speaks for all."""
    if fabric.device.type == "cuda":
        return f"{fabric.world_size} x {torch.cuda.get_device_name(fabric.device)}"
    return f"{fabric.world_size} x {torch.get_num_threads()} CPU threads"


def _steps_of(settings: RunSettings, task: Task) -> int | None:
    if settings.max_epochs is None:
        return settings.max_steps
    if task.samples is None:
        raise SettingsRefused(settings.name, "max_epochs needs a set with an end; give max_steps or max_minutes")
    steps = math.ceil(settings.max_epochs * task.samples / settings.stages[0].batch)
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


@contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to, so that a step is never left half done."""
    told: list[int] = []
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, _: told.append(number))
    except ValueError:
        log.debug("not the main thread: signals stay as they are")
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms, biases and positions do not; what is frozen is not there.

    A module's ``learning_rate_share`` holds for all within it; groups come in the order their parameters do.
    """
    shares = {
        parameter: float(module.learning_rate_share)  # type: ignore[arg-type]
        for module in network.modules() if hasattr(module, "learning_rate_share") for parameter in module.parameters()
    }  # fmt: skip
    groups: dict[tuple[float, float], list[Tensor]] = {(weight_decay, 1.0): [], (0.0, 1.0): []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim < 2 or name.endswith("positions") else weight_decay
            groups.setdefault((decay, shares.get(parameter, 1.0)), []).append(parameter)
    return [{"params": found, "weight_decay": decay, "share": share} for (decay, share), found in groups.items()]
