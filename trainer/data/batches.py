"""Batches drawn ahead by one thread, so that drawing hides behind the network's work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from trainer.config import DataSettings, Stage
from trainer.data.augment import recoloured, resized_crop, turned
from trainer.data.labelled import CropSampler, MixedSampler

Batch = tuple[Tensor, Tensor]
"""Pixels float (B, 3, S, S) of 0..255 and labels int64 (B, S, S), 0 = ignore."""


def draw_batch(
    sampler: CropSampler | MixedSampler, data: DataSettings, stage: Stage, rng: np.random.Generator
) -> Batch:
    """One batch of augmented crops."""
    pixels, labels = [], []
    for _ in range(stage.batch):
        image, codes = resized_crop(sampler.draw(stage.crop, data.scale, rng), stage.crop)
        image, codes = turned(image, codes, rng)
        pixels.append(recoloured(image, data.colour, rng))
        labels.append(codes)
    return torch.stack(pixels).contiguous(memory_format=torch.channels_last), torch.stack(labels).long()


def drawn_ahead(draw: Callable[[int], Batch], start: int, ahead: int = 2) -> Generator[Batch, None, None]:
    """``draw(start)``, ``draw(start + 1)``, ... for ever, ``ahead`` of them under way in a thread.

    An exception in ``draw`` is raised where its batch is asked for.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        waiting: deque[Future[Batch]] = deque()
        step = start
        while True:
            while len(waiting) < ahead:
                waiting.append(pool.submit(draw, step))
                step += 1
            yield waiting.popleft().result()
