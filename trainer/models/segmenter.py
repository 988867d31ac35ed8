"""Encoder and decoder as one segmentation network."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from torch import Tensor, nn

from trainer.models.features import StudentFeatures
from trainer.models.linear_probe import LinearProbe
from trainer.models.normalisation import DEVIATION, MEAN
from trainer.models.plain import Fpn, FpnSettings, LiteEncoder, LiteSettings, PlainEncoder, PlainSettings
from trainer.models.student import PAPER_STUDENT, Student, StudentSettings
from trainer.models.upernet import PAPER_DECODER, DecoderSettings, UPerNet


def _encoder_kind(value: Any) -> str:
    """Which settings of an encoder these are: those of a ViT say no kind."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in ("plain", "lite") else "vit"


def _decoder_kind(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "fpn" if kind == "fpn" else "upernet"


AnyEncoder = Annotated[
    Annotated[StudentSettings, Tag("vit")]
    | Annotated[PlainSettings, Tag("plain")]
    | Annotated[LiteSettings, Tag("lite")],
    Discriminator(_encoder_kind),
]
AnyDecoder = Annotated[
    Annotated[DecoderSettings, Tag("upernet")] | Annotated[FpnSettings, Tag("fpn")], Discriminator(_decoder_kind)
]
TAGS = frozenset({"vit", "plain", "lite", "upernet", "fpn"})
"""Words that stand in the place of an error for the choice made above, and are no keys of a file."""


class HeadShape(BaseModel):
    """A further head: its decoder, and K, without "no data"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decoder: AnyDecoder
    classes: int = Field(ge=1)


class SegmenterSettings(BaseModel):
    """Shape of the whole network; ``classes`` counts K, without "no data".

    ``decoder`` and ``classes`` are the model's own head; ``heads`` are others that read the same encoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: AnyEncoder = StudentSettings()
    decoder: AnyDecoder = DecoderSettings()
    classes: int = Field(default=5, ge=1)
    heads: dict[str, HeadShape] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _decoders_fit(self) -> SegmenterSettings:
        for decoder in (self.decoder, *(head.decoder for head in self.heads.values())):
            # Checked here and not when built: a configuration fails before any data is read.
            if isinstance(self.student, PlainSettings | LiteSettings) != isinstance(decoder, FpnSettings):
                raise ValueError("an encoder of kind plain or lite has a decoder of kind fpn, and no other has one")
            if isinstance(self.student, LiteSettings) and isinstance(decoder, FpnSettings):
                _check_neck(self.student, decoder)
            if (
                isinstance(decoder, DecoderSettings) and isinstance(self.student, StudentSettings)
                and decoder.kind == "upernet" and decoder.detail_widths is not None
                and self.student.detail_channels is None
            ):  # fmt: skip
                raise ValueError(
                    "decoder.detail_widths needs a convolutional stem, a linear one has no detail: set it to null"
                )
        return self


def _check_neck(student: LiteSettings, decoder: FpnSettings) -> None:
    if student.neck is None:
        return
    if decoder.widths[:2] != student.neck.widths:
        raise ValueError(
            f"decoder.widths {decoder.widths}: the encoder's neck gives {student.neck.widths}, and they begin so"
        )
    if decoder.blocks[0]:
        raise ValueError(
            f"decoder.blocks {decoder.blocks}: the encoder's neck has those at stride 32, here the first is 0"
        )


Decoder = UPerNet | LinearProbe | Fpn


PAPER_SEGMENTER = SegmenterSettings(student=PAPER_STUDENT, decoder=PAPER_DECODER, classes=7)
"""29.66 M parameters without positions; 119.60 G multiply-adds a 1024x1024 tile without attention products."""


class Segmenter(nn.Module):
    """Pixels (B, 3, H, W) of 0..255, any float dtype, to logits (B, K, H/stride, W/stride)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: SegmenterSettings, encoder: nn.Module | None = None) -> None:
        """``encoder`` takes the student's place: normalised images in, features of the student's shape out."""
        super().__init__()
        self.settings = settings
        self.student = encoder or _encoder(settings)
        self.student_frozen = False
        # A plain list: torch would register modules of a ModuleList a second time, under other names.
        self.frozen: list[nn.Module] = []
        self.decoder = _decoder(settings, settings.decoder, settings.classes)
        self.heads = nn.ModuleDict(
            {name: _decoder(settings, head.decoder, head.classes) for name, head in settings.heads.items()}
        )
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    def freeze_student(self) -> None:
        """From now on the student learns nothing and infers, whatever mode the rest is in."""
        self._freeze(self.student)
        self.student_frozen = True

    def freeze_head(self, place: int) -> None:
        """The same of a head: 0 is the model's own, others follow in their order."""
        self._freeze([self.decoder, *self.heads.values()][place])

    def _freeze(self, part: nn.Module) -> None:
        # Without gradients and in eval mode: batch norms would follow the batches even if no weight learns.
        part.requires_grad_(False).eval()
        self.frozen.append(part)

    def train(self, mode: bool = True) -> Segmenter:
        """As torch has it, but frozen parts stay in eval mode."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels of 0..255 to zero mean and unit deviation, by the constants above."""
        return (pixels - self.mean) / self.deviation

    def features(self, pixels: Tensor) -> StudentFeatures:
        """What the decoders read, of pixels (B, 3, H, W) of 0..255."""
        # A frozen encoder keeps no activations for a backward pass.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.student_frozen):
            return self.student(self.normalised(pixels))  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of the model's own head at its decoder's stride; the loss and the form that flies resize them."""
        return self.decoder(self.features(pixels))  # type: ignore[no-any-return]

    def all_logits(self, pixels: Tensor) -> list[Tensor]:
        """Logits of the model's own head and of the others, in order; the encoder runs once."""
        features = self.features(pixels)
        return [self.decoder(features), *(head(features) for head in self.heads.values())]


class SeveralHeads(Segmenter):
    """The same network, whose forward gives the logits of all heads, as losses of several want them."""

    def forward(self, pixels: Tensor) -> list[Tensor]:  # type: ignore[override]
        """See :meth:`Segmenter.all_logits`."""
        return self.all_logits(pixels)


def _encoder(settings: SegmenterSettings) -> nn.Module:
    student = settings.student
    if isinstance(student, LiteSettings):
        return LiteEncoder(student)
    return PlainEncoder(student) if isinstance(student, PlainSettings) else Student(student)


def _decoder(settings: SegmenterSettings, decoder: DecoderSettings | FpnSettings, classes: int) -> Decoder:
    student = settings.student
    if isinstance(student, PlainSettings | LiteSettings):
        assert isinstance(decoder, FpnSettings)  # noqa: S101 -- checked with the settings
        return Fpn(decoder, student, classes)
    assert isinstance(decoder, DecoderSettings)  # noqa: S101 -- likewise
    return LinearProbe(student, classes) if decoder.kind == "linear" else UPerNet(decoder, student, classes)
