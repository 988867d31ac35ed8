"""What every test of the trainer stands on."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and images drawn in a test are the same in every run, whatever ran before it."""
    torch.manual_seed(20)
