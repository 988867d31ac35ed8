"""From settings to a teacher. A new kind of teacher is a subclass of `Teacher` and a branch here."""

from __future__ import annotations

from trainer.models.teachers.settings import TeacherSettings
from trainer.models.teachers.teacher import Teacher


def build_teacher(settings: TeacherSettings) -> Teacher:
    """The teacher of ``settings``, its adapters (and backbone, without weights) drawn from torch's generator.

    Raises:
        CheckpointRefused: the weights are missing, damaged or of another architecture.
        SettingsRefused: levels or patch do not suit the backbone.
    """
    # transformers takes seconds to import, so it is imported only when a teacher is built.
    if settings.kind == "sam":
        from trainer.models.teachers.sam import sam_teacher

        return sam_teacher(settings)
    from trainer.models.teachers.dinov2 import dinov2_teacher

    return dinov2_teacher(settings)
