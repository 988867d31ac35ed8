"""The training loop for any task: the task defines data and losses, the loop steps, rates and checkpoints.

All random numbers depend only on the seed and the step: a resumed run repeats an uninterrupted one, and several
processes together draw the same batches as one.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainer.config import RunSettings, Stage
from trainer.errors import RunInterrupted, SettingsRefused
from trainer.training.checkpoint import (
    State,
    check_whole,
    checkout_commit,
    has_checkpoint,
    read_checkpoint,
    read_facts,
    write_checkpoint,
)
from trainer.training.history import EARLIER, earlier_runs
from trainer.training.precision import precision_of
from trainer.training.record import Record, written
from trainer.training.run_identity import check_run_identity
from trainer.training.schedule import elapsed_share, learning_rate, stage_at
from trainer.training.task import Batch, Slice, Task
from trainer.training.weight_average import WeightAverage

log = logging.getLogger(__name__)


class Steps(Dataset[Batch]):
    """One process's micro-batches in their order, numbered from 0 through the whole run."""

    def __init__(self, task: Task, stage: Stage, *, rank: int, world: int, accumulate: int) -> None:
        self.task, self.stage, self.rank, self.world, self.accumulate = task, stage, rank, world, accumulate
        self.count = stage.batch // (world * accumulate)

    def __getitem__(self, number: int) -> Batch:
        step, micro = divmod(number, self.accumulate)
        # Every n-th image and not a stretch: sets lie one after the other in a batch, and batch norms would follow the
        # sets of one process alone. An image's number in the batch is the same for any number of processes and
        # micro-batches, and chance hangs on it alone.
        parts = self.world * self.accumulate
        return self.task.draw(Slice(step, self.stage, range(micro * self.world + self.rank, self.count * parts, parts)))


class Run:
    """One run of a task: network, average, optimiser, and how far it has come.

    Args:
        settings: of the run.
        task: data, losses and network.
        folder: of checkpoints, record and pictures; a run found there is resumed.
        fabric: an already launched Fabric.
        clock: seconds, monotonic.

    Raises:
        SettingsRefused: a batch is not divisible by the processes, or max_epochs is set for a task without epochs.
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
        # A rate of 0 here: `learn` sets the rate of every group before each step.
        optimiser = torch.optim.AdamW(_groups(task.network, settings.weight_decay), lr=0.0, betas=settings.betas)
        self.network, self.optimiser = self.fabric.setup(task.network, optimiser)
        # After Fabric's set-up, which may have moved the weights to a
        # device or sharded them: the average is of these tensors.
        average = WeightAverage(task.network, settings.average)
        self.state = State(self.network, self.optimiser, average, task.saves_frozen)
        self.commit = checkout_commit()
        self.step, self.images, self.pixels = 0, 0, 0
        self.seconds = 0.0
        self.earlier: list[dict[str, Any]] = []
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
            "device": _device_in_words(self.fabric), EARLIER: self.earlier,
        }  # fmt: skip
        write_checkpoint(self.folder, self.state, facts, writes=self.fabric.is_global_zero)
        self.fabric.barrier()

    def go(self, report: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Trains until the budget is spent; reports each step's losses; saves regularly and at the end.

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
        with _stop_signals() as signals:
            while self.share < 1.0:
                stage = stage_at(self.settings, self.share)
                # Another stage has another batch, so a loader of its own.
                # Closing the generator ends the loader's worker processes.
                with closing(self._batches(stage)) as steps:
                    while self.share < min(stage.until, 1.0):
                        losses = self.learn(next(steps), stopping=bool(signals))
                        # Time of earlier starts counts too: a run of 60 minutes that was cut off at 40 has 20 left.
                        self.seconds = self._agreed(before + self.clock() - began)
                        if report is not None:
                            report(self.step, losses)
                        # All processes see the same mean, so that all of them save,
                        # which is collective, and stop after the same step.
                        if losses["stopping"] > 0:
                            self.save()
                            raise RunInterrupted(self.folder, self.step)
                        if self._is_time_to_save(self.clock() - saved):
                            self.save()
                            saved = self.clock()
        self.save()

    def _is_time_to_save(self, seconds: float) -> bool:
        """By step number, equal on all processes; with a single process also by the clock."""
        # Clocks of several processes differ; if one saved and another did not, each would wait for the other.
        by_clock = self.fabric.world_size == 1 and seconds > 60 * self.settings.checkpoint_minutes
        return by_clock or self.step % self.settings.checkpoint_steps == 0

    def learn(self, batches: Iterator[Batch], *, stopping: bool = False) -> dict[str, float]:
        """One optimiser step; returns the losses before it, averaged over all processes.

        A step whose gradient is not finite is skipped.

        Args:
            batches: as many micro-batches as are accumulated.
            stopping: this process received a stop signal; the result's "stopping" is above 0 if any process did.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.share) * group["share"]
        # Dropout and positions draw from the global generator. Seeded by the step, a
        # resumed run draws what an uninterrupted one would, and no generator's state is in
        # the checkpoint. Two seeds share a stream only a million steps apart.
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
        accumulate, parts = self.settings.machine.accumulate, []
        for micro, batch in enumerate(batches, start=1):
            # Gradients are exchanged once a step, with the last micro-batch; before it they only add up.
            with self.fabric.no_backward_sync(self.network, enabled=micro < accumulate):
                losses = self.task.losses(self.network, batch)
                self.fabric.backward(losses["total"] / accumulate)
            parts.append({name: value.detach().float() for name, value in losses.items()})
            self.images += len(batch[0]) * self.fabric.world_size
            self.pixels += batch[0][:, 0].numel() * self.fabric.world_size
        # After the exchange all processes have the same gradients, thus the same norm, and skip the same step.
        norm = self.fabric.clip_gradients(
            self.network, self.optimiser, max_norm=self.settings.gradient_norm, error_if_nonfinite=False
        )
        values = torch.stack([torch.stack([part[name] for part in parts]).mean() for name in parts[0]])
        # The stop signal rides along with the losses: a signal may reach
        # one process alone, and one reduction tells all.
        values = torch.cat([values, values.new_tensor([float(stopping)])])
        reduced = self.fabric.all_reduce(values, reduce_op="mean").tolist()  # type: ignore[union-attr]
        means = dict(zip([*parts[0], "stopping"], reduced, strict=True))
        # One step with an infinite gradient would make all weights, and every checkpoint after it, not-a-number.
        if math.isfinite(float(norm)):  # type: ignore[arg-type]
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.state.average.update(self.step)
        self._note(means)
        return means

    def _note(self, losses: dict[str, float]) -> None:
        # On every process, also on those that record nothing: the task's state must not depend on the rank.
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
        """The micro-batches of each step, from the current step on, without end."""
        machine = self.settings.machine
        steps = Steps(
            self.task, stage, rank=self.fabric.global_rank, world=self.fabric.world_size, accumulate=machine.accumulate
        )
        loader: DataLoader[Batch] = DataLoader(
            # The task draws whole batches. The sampler counts on from the
            # current step, so that nothing is drawn twice or left out.
            steps, batch_size=None, sampler=_Counting(self.step * machine.accumulate), num_workers=machine.workers,
            pin_memory=self.fabric.device.type == "cuda", worker_init_fn=_ignore_interrupts,
            generator=torch.Generator(),  # its own, so that starting a loader does not advance the global generator
        )  # fmt: skip
        drawn: Iterator[Batch] = iter(self.fabric.setup_dataloaders(loader, use_distributed_sampler=False))  # type: ignore[arg-type]
        # Lazy: a micro-batch is taken when the step comes to it, so that one at a time is in memory.
        while True:
            yield (next(drawn) for _ in range(machine.accumulate))

    def _agreed(self, seconds: float) -> float:
        """The first process's elapsed seconds: all processes must see the same share of the run."""
        return float(self.fabric.broadcast(seconds)) if self.fabric.world_size > 1 else seconds

    def _resume(self) -> bool:
        if has_checkpoint(self.folder):
            check_whole(self.folder)
            # Before any weight is loaded: a run of other settings is refused and its folder stays as it is.
            check_run_identity(self.folder, read_facts(self.folder).get("settings", {}), self.settings)
        facts = read_checkpoint(self.folder, self.state)
        if facts is None:
            self.earlier = self._earlier()
            return False
        # From the checkpoint rather than from the folders: those may be gone by now, or hold a successor's weights.
        self.earlier = facts[EARLIER] if EARLIER in facts else self._earlier()
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.images, self.pixels = facts["images"], facts["pixels"]
        self.task.load_state(facts["task"])
        return True

    def _earlier(self) -> list[dict[str, Any]]:
        return earlier_runs(getattr(self.settings, "start_from", None), getattr(self.settings, "encoder", None))

    def _check_batches(self) -> None:
        parts = self.fabric.world_size * self.settings.machine.accumulate
        odd = [stage.batch for stage in self.settings.stages if stage.batch % parts]
        if odd:
            raise SettingsRefused(
                self.settings.name, f"batches {odd} do not divide by {parts} (processes x accumulated micro-batches)"
            )


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches all processes of a terminal; a worker that ended by it would end the run before it is saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Counting:
    """A sampler that counts first, first + 1, ... without end."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        number = self.first
        while True:
            yield number
            number += 1


def fabric_of(settings: RunSettings) -> Fabric:
    """A launched Fabric for the processes and devices of a run: joins those of torchrun or SLURM, else starts its own.

    Raises:
        SettingsRefused: this machine has no such accelerator, or fewer of them.
    """
    machine = settings.machine
    if machine.threads is not None:
        # torch wants it before any work: "must be called before running eager code" (its reference, set_num_threads).
        torch.set_num_threads(machine.threads)
    try:
        fabric = Fabric(
            accelerator=machine.accelerator, devices=machine.devices, num_nodes=machine.nodes,
            strategy=machine.strategy, precision=precision_of(machine),
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:  # an accelerator that is not here, or fewer of them
        reason = " ".join(str(error).split())
        raise SettingsRefused(settings.name, f"`machine` asks for what this one has not: {reason}") from error
    fabric.launch()
    return fabric


def run_to_end(settings: RunSettings, task: Task, folder: Path, fabric: Fabric) -> Run:
    """Resumes or starts a run, trains to the end with regular log lines, and draws its curves."""
    run = Run(settings, task, folder, fabric)
    if run.resumed:
        log.info("resumed at step %d, %.0f s", run.step, run.seconds)

    def report(step: int, losses: dict[str, float]) -> None:
        if step % settings.log_steps == 0 and fabric.is_global_zero:
            text = " ".join(f"{name} {value:.4f}" for name, value in losses.items() if name != "stopping")
            log.info("step %d, %.1f %%, %.2f images/s: %s", step, 100 * run.share, run.images / run.seconds, text)

    run.go(report)
    if fabric.is_global_zero:
        log.info("done: %d steps, %d images, %.0f s", run.step, run.images, run.seconds)
    return run


def _device_in_words(fabric: Fabric) -> str:
    """Number and kind of the run's devices, taken from the first process."""
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
def _stop_signals() -> Iterator[list[int]]:
    """A list to which SIGINT and SIGTERM append, so that a running step is completed first."""
    signals: list[int] = []
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, _: signals.append(number))
    # Python lets only the main thread set handlers.
    except ValueError:
        log.debug("not the main thread: signals stay as they are")
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices and kernels with weight decay; norms, biases and positions without; no frozen ones.

    A module's ``learning_rate_share`` applies to all its parameters. Groups keep the order of the parameters.
    """
    shares = {
        parameter: float(module.learning_rate_share)  # type: ignore[arg-type]
        for module in network.modules() if hasattr(module, "learning_rate_share") for parameter in module.parameters()
    }  # fmt: skip
    # A share of 1 comes first: the first group's rate is what the record shows as the run's own.
    groups: dict[tuple[float, float], list[Tensor]] = {(weight_decay, 1.0): [], (0.0, 1.0): []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            # Decay pulls towards 0, which for scales of norms, biases and
            # positions means something else than a simpler network.
            decay = 0.0 if parameter.ndim < 2 or name.endswith("positions") else weight_decay
            groups.setdefault((decay, shares.get(parameter, 1.0)), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "share": share} for (decay, share), parameters in groups.items()
    ]
