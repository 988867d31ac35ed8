"""A station with keys, models to send, and a satellite that takes them: all real, on loopback."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ground import cli
from tests.onboard.service import Served, until, write_scene
from tests.tiny_heads import write_heads_model
from tests.tiny_model import write_model


@dataclass
class Station:
    """Keys and models on the ground.

    Attributes:
        folder: of all of it.
        keys: folder of `ground model keys`.
    """

    folder: Path
    keys: Path = field(init=False)

    def __post_init__(self) -> None:
        self.keys = self.folder / "keys"

    def make_keys(self, *options: str) -> Path:
        """Makes keys; gives the root of trust that flies."""
        assert cli.main(["model", "keys", str(self.keys), *options]) == 0
        return self.keys / "1.root.json"

    def model(self, version: str, *, signed: bool = True, manifest: dict[str, Any] | None = None, **graph: Any) -> Path:
        """A model's folder, signed with all keys."""
        folder = write_model(self.folder / f"tiny-{version}", {"version": version, **(manifest or {})}, **graph)
        if signed:
            self.sign(folder)
        return folder

    def heads_model(self, version: str, *, signed: bool = True, **options: Any) -> Path:
        """A folder of a model with heads, signed with all keys; ``options`` as of write_heads_model."""
        changes = {"version": version, **options.pop("changes", {})}
        folder = write_heads_model(self.folder / f"tiny-heads-{version}", changes=changes, **options)
        if signed:
            self.sign(folder)
        return folder

    def sign(self, folder: Path, *options: str) -> int:
        """Puts a model on the list."""
        return cli.main(["model", "sign", str(folder), "--keys", str(self.keys), *options])

    def push(self, folder: Path, url: str, *options: str) -> int:
        """One pass."""
        return cli.main(["model", "push", str(folder), url, "--keys", str(self.keys), *options])


def models_of(served: Served) -> dict[str, dict[str, Any]]:
    """By version, as GET /models says."""
    with served.client() as client:
        return {model["version"]: model for model in client.get("/models").json()["models"]}


def wait_for_state(served: Served, version: str, *states: str) -> dict[str, Any]:
    """Until a model is in one of these states."""

    def model() -> dict[str, Any] | None:
        row = models_of(served).get(version)
        return row if row is not None and row["state"] in states else None

    found: dict[str, Any] = until(model, f"model {version} never became {states}: {models_of(served)}")
    return found


def activate(served: Served, version: str) -> None:
    """POST /models/DIGEST/activate."""
    with served.client() as client:
        answer = client.post(f"/models/{models_of(served)[version]['digest']}/activate")
    assert answer.status_code == 200, answer.text


def mapped_by(served: Served, seed: int, side: int = 60, **query: str) -> str:
    """Version of the model that maps a new scene."""
    scene = served.post(write_scene(served.data.parent / f"scene-{seed}.tif", side, seed=seed), **query)
    served.wait_for(scene["id"], "mapped")
    with served.ledger() as ledger:
        row = ledger.maps.get(scene["id"])
    assert row is not None
    return str(row.item["properties"]["onboard:model"]["version"])


def kinds(served: Served) -> list[str]:
    """Kinds of all events, in order."""
    with served.ledger() as ledger:
        return [event.kind for event in ledger.events.page(limit=1000)]
