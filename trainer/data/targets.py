"""What the labels of several sets mean for each head: one class, or a weighted set of allowed classes.

A label that says "anything but water" is no class, and to call it one teaches what is wrong. Each head therefore has a
table of codes: 0 is ignored, 1..K are its classes, and each further code is a set of allowed classes with weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.data.description import LandCoverClass, Meaning, SetDescription
from trainer.errors import SettingsRefused


class HeadCodes:
    """The codes of one head, which grow as sets are added.

    Attributes:
        name: of the head.
        classes: its class table; codes are 1..K in this order.
    """

    def __init__(self, name: str, classes: Sequence[LandCoverClass]) -> None:
        self.name = name
        self.classes = tuple(classes)
        self._codes = {item.name: code for code, item in enumerate(classes, start=1)}
        # Row 0 allows nothing (ignored), rows 1..K one class each; sets of classes follow as they come.
        self._rows: list[tuple[float, ...]] = [(0.0,) * len(classes), *map(tuple, np.eye(len(classes)).tolist())]

    @property
    def allowed(self) -> NDArray[np.float32]:
        """Weight of each class by code, float32 (codes, K): 0 forbidden, 1 as good as the label says. Row 0 is 0."""
        return np.asarray(self._rows, dtype=np.float32)

    def means_something(self, labels: SetDescription, translation: str) -> bool:
        """Whether a set says what its labels mean to this head, by a translation or by classes of the same names."""
        return translation in labels.translations or all(item.name in self._codes for item in labels.classes)

    def table_of(self, labels: SetDescription, translation: str) -> NDArray[np.uint8]:
        """Code of this head for each code 0..C of a set's labels, uint8 (C + 1,).

        Args:
            labels: the set.
            translation: which of its translations; a set of this head's own class names needs none.

        Raises:
            SettingsRefused: it has no such translation, or one that names a class this head has not.
        """
        meanings: Mapping[str, Meaning] | None = labels.translations.get(translation)
        if meanings is None:
            strange = [item.name for item in labels.classes if item.name not in self._codes]
            if strange:
                raise SettingsRefused(
                    labels.name,
                    f"its classes {', '.join(strange)} are not in head {self.name} ({', '.join(self._codes)}), and it "
                    f"has no `translations: {{{translation}: ...}}` to say what they mean there",
                )
            meanings = {item.name: item.name for item in labels.classes}
        codes = [0, *(self._code(meanings.get(item.name), labels.name) for item in labels.classes)]
        return np.asarray(codes, dtype=np.uint8)

    def single_codes(self, labels: SetDescription, translation: str) -> NDArray[np.uint8]:
        """As :meth:`table_of`, with 0 where a label means several classes: no answer there is right or wrong."""
        table = self.table_of(labels, translation)
        return np.where(table > len(self.classes), 0, table).astype(np.uint8)

    def _code(self, meaning: Meaning | None, source: str) -> int:
        if meaning is None:
            return 0
        weights = {meaning: 1.0} if isinstance(meaning, str) else (
            dict(meaning) if isinstance(meaning, Mapping) else dict.fromkeys(meaning, 1.0)
        )  # fmt: skip
        if strange := sorted(set(weights) - set(self._codes)):
            raise SettingsRefused(
                source, f"translates into {', '.join(strange)}; head {self.name} has {', '.join(self._codes)}"
            )
        row = tuple(float(weights.get(name, 0.0)) for name in self._codes)
        # Equal meanings of several sets share a code: codes are bytes, so there are 256 at most.
        if row not in self._rows:
            if len(self._rows) > 255:
                raise SettingsRefused(source, f"head {self.name} has more than 255 different meanings of labels")
            self._rows.append(row)
        return self._rows.index(row)
