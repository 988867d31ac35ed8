"""What goes wrong with a product, split by what the caller does next.

ProductError            it cannot be read or written
└── ProductRefused      mend the options, or give another map
"""

from __future__ import annotations


class ProductError(Exception):
    """Root."""


class ProductRefused(ProductError):
    """These maps or these options cannot be; ``remedy`` says what can."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}; {remedy}")
