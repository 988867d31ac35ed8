"""States of a model in the ledger, and the one table of changes between them. docs/uplink.md shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from onboard.jobs.scene_states import Transition

ModelState = Literal["receiving", "received", "verified", "standby", "active", "retired", "refused"]
MODEL_STATES: Final[tuple[str, ...]] = get_args(ModelState)
Origin = Literal["shipped", "uplink"]

MODEL_TRANSITIONS: Final[Mapping[str, Transition]] = {
    "complete": Transition(("receiving",), "received", "all of its files are whole"),
    "verify": Transition(("received",), "verified", "it opens, answers right, and keeps to the limits"),
    "refuse": Transition(
        ("receiving", "received", "verified"), "refused", "a check failed, or the signed list names it no more"
    ),
    "activate": Transition(("verified", "standby", "retired"), "active", "`POST /models/DIGEST/activate`"),
    "replace": Transition(("active",), "standby", "another model was activated"),
    "fall_back": Transition(("active",), "retired", "it failed too often: the last good model is active again"),
    "retire": Transition(
        ("receiving", "received", "verified", "standby", "retired"), "retired", "`POST /models/DIGEST/retire`"
    ),
    "begin": Transition(("retired", "refused"), "receiving", "a signed list names it again, and its files are gone"),
}
"""A model that a signed list names for the first time begins as "receiving"; the shipped one as "standby"."""
