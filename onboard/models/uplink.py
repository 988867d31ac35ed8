"""What the API process has of models: their files, and the delivery of new ones where a root of trust is set."""

from __future__ import annotations

import threading
from collections.abc import Callable

from engines.errors import EngineError
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.models.active import is_whole, model_files
from onboard.models.class_tables import class_tables, manifest_of
from onboard.models.delivery import ModelDelivery
from onboard.models.errors import UplinkOff
from onboard.models.shipped import AboardFile, files_aboard
from onboard.models.trust import Trust
from onboard.settings import Settings

TRUST = "trust"


class Uplink:
    """One for the API process; any thread may call.

    Args:
        settings: of the service.
        ledger: gives the calling thread's connection.

    Attributes:
        is_open: set once there is a delivery, at the first request after the root of trust is aboard.
    """

    def __init__(self, settings: Settings, ledger: Callable[[], Ledger]) -> None:
        self.settings, self._ledger = settings, ledger
        self.files = model_files(settings)
        self._lock = threading.Lock()
        self.is_open = threading.Event()
        self._delivery: ModelDelivery | None = None
        self._shipped: dict[str, AboardFile] | None = None

    @property
    def delivery(self) -> ModelDelivery:
        """Takes models in.

        Raises:
            UplinkOff: none are taken: no root of trust, or a library is missing.
        """
        # Two first requests at once must share one delivery: it knows the uploads under way.
        with self._lock:
            if self._delivery is None:
                folder = self.settings.models_dir / TRUST
                if self.settings.trust_root is None:
                    raise UplinkOff(
                        "no root of trust is set, so no models are taken",
                        "put root.json of `ground model keys` aboard and set ONBOARD_TRUST_ROOT to it",
                    )
                trust = Trust(folder, self.settings.trust_root)
                self.files.prepare()
                self._delivery = ModelDelivery(self.settings, trust, self._ledger, self.files)
                self.is_open.set()
            return self._delivery

    def delivery_or_problem(self) -> tuple[ModelDelivery | None, str | None]:
        """The delivery, or why there is none."""
        try:
            return self.delivery, None
        except UplinkOff as error:
            return None, error.advice

    def shipped_files(self) -> dict[str, AboardFile]:
        """Files that did not come up the link, by digest."""
        if self._shipped is None:
            self._shipped = files_aboard(self.settings)
        return self._shipped

    def is_whole(self, row: ModelRow) -> bool:
        """Whether a model's folder stands."""
        return is_whole(self.settings, row)

    def heads_of(self, row: ModelRow) -> dict[str, int]:
        """Number of classes by head; empty for a model of one graph, and where its manifest is not here or damaged."""
        try:
            manifest = manifest_of(self.settings, row)
        except EngineError:
            return {}
        return {name: len(classes) for name, classes in class_tables(manifest).items()}

    def erase(self, row: ModelRow) -> None:
        """Removes the files of a model that is out; see :meth:`ModelDelivery.erase`."""
        self.delivery.erase(row)
