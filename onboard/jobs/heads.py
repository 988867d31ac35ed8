"""Which heads of a model map a scene: those asked for, else those of the settings, else the first."""

from __future__ import annotations

from collections.abc import Sequence

from engines.command_line import names_of
from engines.manifest import Manifest, refusal_of_heads
from onboard.errors import OptionsRefused
from onboard.settings import Settings


def with_wanted_heads(manifest: Manifest, names: Sequence[str]) -> Manifest:
    """The manifest for those of these heads that the model has; for its first head where it has none of them.

    A scene waits while another model is activated, which may lack a head that was asked for.
    """
    return manifest.with_heads([name for name in names if name in manifest.head_names])


def usual_heads(manifest: Manifest, settings: Settings) -> Manifest:
    """The manifest for the heads of scenes whose deliverer names none."""
    return with_wanted_heads(manifest, names_of(settings.heads))


def check_heads(manifest: Manifest, names: Sequence[str], what: str) -> None:
    """Passes if the model has all these heads.

    Args:
        manifest: of the model.
        names: of the heads; none is always right.
        what: named them: "ONBOARD_HEADS", "heads".

    Raises:
        OptionsRefused: it lacks one, or one is named twice.
    """
    if refusal := refusal_of_heads(names, manifest.head_names, f"{manifest.name} {manifest.version}"):
        problem, remedy = refusal
        raise OptionsRefused(f"{what}: {problem}", remedy)
