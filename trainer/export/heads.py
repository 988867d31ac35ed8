"""Reduces a network of several heads to one head, for export and calibration."""

from __future__ import annotations

from trainer.config import DataSettings, FinetuneSettings
from trainer.data.description import read_description
from trainer.errors import SettingsRefused
from trainer.models.segmenter import Segmenter


def one_head(settings: FinetuneSettings, segmenter: Segmenter, head: str | None) -> tuple[FinetuneSettings, Segmenter]:
    """Settings and network of a run, reduced to one head.

    The data of the settings become the run's set that has the head's classes; exported files are compared on it. A run
    of one head is returned unchanged.

    Args:
        settings: of the run.
        segmenter: its network.
        head: name of the head; None for the first.

    Raises:
        SettingsRefused: no such head.
    """
    if not settings.heads:
        if head is not None:
            raise SettingsRefused("--head", f"the run {settings.name} has one head, which needs no name")
        return settings, segmenter
    names = list(settings.heads)
    head = head or names[0]
    if head not in names:
        raise SettingsRefused("--head", f"no head {head!r} in the run {settings.name}; there are {', '.join(names)}")
    model = settings.model
    # The first head of a run is the model's own decoder, the others lie under `heads`.
    if head != names[0]:
        shape = model.heads[head]
        model = model.model_copy(update={"decoder": shape.decoder, "classes": shape.classes})
    model = model.model_copy(update={"heads": {}})
    alone = Segmenter(model)
    decoder = segmenter.decoder if head == names[0] else segmenter.heads[head]
    alone.student.load_state_dict(segmenter.student.state_dict())
    alone.decoder.load_state_dict(decoder.state_dict())
    view = settings.model_copy(update={"heads": {}, "model": model, "data": _own_set(settings, head)})
    return view, alone.train(segmenter.training)


def _own_set(settings: FinetuneSettings, head: str) -> DataSettings:
    """The labelled set of the run that has the head's own classes."""
    table = settings.heads[head].classes_of
    wanted = [item.name for item in read_description(table).classes]
    for item in settings.data.sets:
        if [land_class.name for land_class in read_description(item.set).classes] == wanted:
            return settings.data.model_copy(
                update={
                    "sets": (), "set": item.set, "split": item.split, "names": item.names,
                    "root": item.root or settings.data.root,
                }
            )  # fmt: skip
    # No set of the run has these very classes (they were all translated): the table's own set stands in.
    return settings.data.model_copy(update={"sets": (), "set": table, "split": "train", "names": ()})
