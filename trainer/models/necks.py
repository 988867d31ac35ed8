"""Weights of a network without a neck under the names that they have in one with it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_NECK = "student.neck."
_INTO_NECK = {"decoder.top.": f"{_NECK}top.", "decoder.steps.16.": f"{_NECK}step."}


def has_neck(tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights, by name, are of a network with a neck."""
    return any(name.startswith(_NECK) for name in tensors)


def with_neck(own: Mapping[str, Tensor], earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an earlier network; where ``own`` has a neck and they have none, the first decoder's upper half as it.

    The outputs of that decoder stay the same. Those of further heads do not: they were made for another neck.
    """
    if not has_neck(own) or has_neck(earlier):
        return dict(earlier)
    renamed = {}
    for name, value in earlier.items():
        moved = next((to + name.removeprefix(old) for old, to in _INTO_NECK.items() if name.startswith(old)), name)
        renamed[moved] = value
    return renamed
