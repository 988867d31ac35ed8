"""Metadata and files of models on their way in: pieces, cuts, wrong bytes, two at once, a full disk, differences."""

from __future__ import annotations

import hashlib
import lzma
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ground.model import difference as ground_difference
from ground.model.sign import LIST_FILE
from ground.model.unit import Unit, file_of, unit_of
from onboard.errors import NoRoom
from onboard.jobs.ledger import Ledger
from onboard.models import delivery as delivery_module
from onboard.models.delivery import ModelDelivery, NotWanted, Taken, WrongDigest, WrongStart
from onboard.models.difference import NoDifference, apply
from onboard.models.errors import ListRefused
from onboard.models.model_files import ModelFiles
from onboard.models.reconcile import reconcile_models
from onboard.models.trust import Trust
from onboard.settings import Settings, read_settings
from tests.onboard.models.satellite import Station
from tests.onboard.service import DEADLINE_S
from tests.tiny_heads import HEADS, write_heads_model
from tests.tiny_model import write_model


@pytest.fixture
def station(tmp_path: Path) -> Station:
    station = Station(tmp_path / "ground")
    station.make_keys()
    return station


@dataclass(frozen=True)
class Kind:
    """A kind of model, and a file of it that a training changes.

    Attributes:
        file: that is another one in a changed model.
        write: writes the one aboard.
        same: writes one of another version with the files of the one aboard, signed.
        changed: writes one with another ``file``, signed.
    """

    file: str
    write: Callable[[Path], Path]
    same: Callable[[Station, str], Path]
    changed: Callable[..., Path]


def changed_graph(station: Station, version: str, **options: Any) -> Path:
    return station.model(version, scale=2.0, **options)


def changed_head(station: Station, version: str, **options: Any) -> Path:
    return station.heads_model(version, heads={**HEADS, "light": np.float32(2) * HEADS["light"]}, **options)


KINDS = {
    "one graph": Kind("model.onnx", write_model, lambda station, version: station.model(version), changed_graph),
    "heads": Kind(
        "light.onnx", write_heads_model, lambda station, version: station.heads_model(version), changed_head
    ),
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def settings(tmp_path: Path, station: Station, kind: Kind) -> Settings:
    model = kind.write(tmp_path / "model")
    root = station.keys / "1.root.json"
    return read_settings(data_dir=tmp_path / "data", model=str(model), disk_reserve_bytes=0, trust_root=root)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings.ledger_path) as ledger:
        reconcile_models(settings, ledger)
        yield ledger


def delivery_of(settings: Settings, ledger: Ledger) -> ModelDelivery:
    files = ModelFiles(settings.models_dir, settings.disk_reserve_bytes)
    files.prepare()
    trust = Trust(settings.models_dir / "trust", settings.trust_root, is_clock_right=lambda: False)
    return ModelDelivery(settings, trust, lambda: ledger, files)


@pytest.fixture
def delivery(settings: Settings, ledger: Ledger) -> ModelDelivery:
    return delivery_of(settings, ledger)


def announce(delivery: ModelDelivery, station: Station, folder: Path) -> Unit:
    delivery.take_list((station.keys / LIST_FILE).read_bytes())
    return unit_of(folder)


def send(delivery: ModelDelivery, unit: Unit, name: str, content: bytes | None = None) -> None:
    file = unit.files[name]
    delivery.wanted_size(file.sha256)
    with delivery.upload(file.sha256, 0) as append:
        append(file.path.read_bytes() if content is None else content)
    delivery.finish(file.sha256)


def state(ledger: Ledger, unit: Unit) -> str:
    row = ledger.models.get(unit.digest)
    return "unknown" if row is None else row.state


def test_a_model_is_received_when_all_its_files_are_whole(
    delivery: ModelDelivery, ledger: Ledger, station: Station, kind: Kind
) -> None:
    unit = announce(delivery, station, kind.same(station, "2.0"))
    assert state(ledger, unit) == "receiving"
    for name in unit.files:
        if not delivery.files.holds(unit.files[name].sha256):
            send(delivery, unit, name)
    assert state(ledger, unit) == "received"
    folder = delivery.files.unit(unit.digest)
    assert {path.name for path in folder.iterdir()} == set(unit.files)
    assert all((folder / name).read_bytes() == file.path.read_bytes() for name, file in unit.files.items())


def test_files_that_are_aboard_need_not_come(delivery: ModelDelivery, station: Station, kind: Kind) -> None:
    """Model and golden tile are those of the shipped model: only the manifest is another."""
    unit = announce(delivery, station, kind.same(station, "2.0"))
    assert [name for name, file in unit.files.items() if not delivery.files.holds(file.sha256)] == ["manifest.json"]


def test_what_no_signed_list_names_is_not_kept(delivery: ModelDelivery, station: Station, kind: Kind) -> None:
    unit = unit_of(kind.changed(station, "2.0", signed=False))
    with pytest.raises(NotWanted, match="no signed list"):
        delivery.wanted_size(unit.files[kind.file].sha256)
    assert not list((delivery.files.folder / "incoming").iterdir())


def test_a_file_goes_on_where_it_was_cut(
    delivery: ModelDelivery, settings: Settings, ledger: Ledger, station: Station, kind: Kind
) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    file = unit.files[kind.file]
    content = file.path.read_bytes()
    with delivery.upload(file.sha256, 0) as append:
        append(content[:100])
        append(content[100:250])
    after = delivery_of(settings, ledger)  # as after a restart
    with pytest.raises(WrongStart) as refused, after.upload(file.sha256, 0):
        pass
    assert refused.value.held == 250
    with after.upload(file.sha256, 250) as append:
        append(content[250:])
    after.finish(file.sha256)
    assert after.files.file(file.sha256).read_bytes() == content


def test_wrong_bytes_are_erased(delivery: ModelDelivery, station: Station, kind: Kind) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    file = unit.files[kind.file]
    damaged = bytearray(file.path.read_bytes())
    damaged[77] ^= 4
    with pytest.raises(WrongDigest):
        send(delivery, unit, kind.file, bytes(damaged))
    assert delivery.files.held_bytes(file.sha256) == 0
    assert not delivery.files.holds(file.sha256)
    send(delivery, unit, kind.file)
    assert delivery.files.holds(file.sha256)


def test_two_uploads_of_one_file_do_not_mix(
    delivery: ModelDelivery, station: Station, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    file = unit.files[kind.file]
    content = file.path.read_bytes()
    with delivery.upload(file.sha256, 0) as append:
        append(content[:50])
        with pytest.raises(Taken), delivery.upload(file.sha256, 50):
            pass
        monkeypatch.setattr(delivery_module, "SILENT_S", 0.0)  # its link is cut, and nobody has noticed
        with delivery.upload(file.sha256, 50) as second:
            second(content[50:])
            with pytest.raises(Taken, match="took over"):
                append(b"late bytes of the first")
    delivery.finish(file.sha256)
    assert delivery.files.file(file.sha256).read_bytes() == content


def test_a_full_disk_costs_nothing_that_came(delivery: ModelDelivery, station: Station, kind: Kind) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    file = unit.files[kind.file]
    content = file.path.read_bytes()
    with delivery.upload(file.sha256, 0) as append:
        append(content[:100])
        delivery.files._reserve = 1 << 60
        with pytest.raises(NoRoom):
            append(content[100:])
    assert delivery.files.held_bytes(file.sha256) == 100
    delivery.files._reserve = 0
    with delivery.upload(file.sha256, 100) as append:
        append(content[100:])
    delivery.finish(file.sha256)


def test_an_older_list_is_refused_and_the_newer_one_counts(
    delivery: ModelDelivery, ledger: Ledger, station: Station, kind: Kind
) -> None:
    announce(delivery, station, kind.same(station, "2.0"))
    old = (station.keys / LIST_FILE).read_bytes()
    unit = announce(delivery, station, kind.same(station, "3.0"))
    with pytest.raises(ListRefused, match="never fall"):
        delivery.take_list(old)
    assert state(ledger, unit) == "receiving"
    assert "list-refused" in [event.kind for event in ledger.events.page()]


def test_a_model_that_is_withdrawn_does_not_fly(
    delivery: ModelDelivery, ledger: Ledger, station: Station, kind: Kind
) -> None:
    from ground import cli

    unit = announce(delivery, station, folder := kind.same(station, "2.0"))
    assert cli.main(["model", "withdraw", str(folder), "--keys", str(station.keys)]) == 0
    delivery.take_list((station.keys / LIST_FILE).read_bytes())
    assert state(ledger, unit) == "refused"
    with pytest.raises(NotWanted):
        delivery.wanted_size(unit.digest)


def test_a_retired_model_is_taken_again_when_its_files_come(
    delivery: ModelDelivery, ledger: Ledger, station: Station, kind: Kind
) -> None:
    unit = announce(delivery, station, folder := kind.same(station, "2.0"))
    send(delivery, unit, "manifest.json")
    row = ledger.models.get(unit.digest)
    assert row is not None
    assert ledger.models.retire(row.id, "not wanted")
    delivery.erase(row)
    assert not any((delivery.files.folder / "files").iterdir())
    announce(delivery, station, folder)
    assert state(ledger, unit) == "retired"
    send(delivery, unit, "manifest.json")
    assert state(ledger, unit) == "received"


def send_difference(delivery: ModelDelivery, kind: Kind, unit: Unit, base: Path, **changes: Any) -> None:
    file = unit.files[kind.file]
    found = ground_difference.smallest(file, [file_of(base / kind.file)], base.parent / "cache")
    assert found is not None
    content = changes.get("content", found.file.path.read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    path = delivery.base_of(found.method, found.base)
    with delivery.upload(delivery.files.difference_part(file.sha256, digest), 0) as append:
        append(content[:10])
        append(content[10:])
    delivery.finish_difference(file.sha256, file.bytes, digest, found.method, path)


@pytest.fixture
def _small_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground_difference, "LEAST_BYTES", 1)


@pytest.mark.usefixtures("_small_is_worth_it")
def test_a_file_is_made_of_a_difference(
    delivery: ModelDelivery, settings: Settings, station: Station, kind: Kind
) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    send_difference(delivery, kind, unit, Path(str(settings.model)))
    file = unit.files[kind.file]
    assert delivery.files.file(file.sha256).read_bytes() == file.path.read_bytes()
    assert not list((delivery.files.folder / "incoming").iterdir())


@pytest.mark.usefixtures("_small_is_worth_it")
def test_a_difference_that_makes_another_file_is_refused(
    delivery: ModelDelivery, settings: Settings, station: Station, kind: Kind
) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    base = Path(str(settings.model))
    other = (base / kind.file).read_bytes()
    harmful = ground_difference.planes(other, bytes(reversed(other)))
    with pytest.raises(WrongDigest):
        send_difference(delivery, kind, unit, base, content=harmful)
    with pytest.raises(WrongDigest):
        send_difference(delivery, kind, unit, base, content=b"no difference at all")
    assert not delivery.files.holds(unit.files[kind.file].sha256)
    assert not list((delivery.files.folder / "incoming").iterdir())
    send_difference(delivery, kind, unit, base)


@dataclass(frozen=True)
class Packed:
    """The whole of a difference."""

    method: str
    content: bytes
    base: Path | None = None

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def differences_of(kind: Kind, unit: Unit, base: Path) -> tuple[Packed, Packed]:
    """Two that make one file: against the one aboard, and the file itself, compressed."""
    new, old = unit.files[kind.file].path.read_bytes(), base / kind.file
    return Packed("planes", ground_difference.planes(old.read_bytes(), new), old), Packed("xz", lzma.compress(new))


def bring(delivery: ModelDelivery, kind: Kind, unit: Unit, packed: Packed) -> Callable[[], None]:
    """Has a difference come whole; gives what ends it."""
    file = unit.files[kind.file]
    with delivery.upload(delivery.files.difference_part(file.sha256, packed.digest), 0) as append:
        append(packed.content)
    return lambda: delivery.finish_difference(file.sha256, file.bytes, packed.digest, packed.method, packed.base)


def test_two_differences_of_one_file_that_end_together_make_it_once(
    delivery: ModelDelivery, settings: Settings, station: Station, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    made_apart, both = delivery_module._made_apart, threading.Barrier(2)

    def made_together(arguments: list[str]) -> str:
        why = made_apart(arguments)
        both.wait(DEADLINE_S)
        return why

    monkeypatch.setattr(delivery_module, "_made_apart", made_together)
    ends = [bring(delivery, kind, unit, packed) for packed in differences_of(kind, unit, Path(str(settings.model)))]
    with ThreadPoolExecutor(2) as pool:
        for ended in [pool.submit(end) for end in ends]:
            ended.result()
    file = unit.files[kind.file]
    assert delivery.files.file(file.sha256).read_bytes() == file.path.read_bytes()
    assert not list((delivery.files.folder / "incoming").iterdir())


def test_a_difference_that_is_wrong_takes_no_other_along(
    delivery: ModelDelivery, settings: Settings, station: Station, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    made_apart, wrong_ended = delivery_module._made_apart, threading.Event()

    def made_later(arguments: list[str]) -> str:
        if "planes" in arguments:
            assert wrong_ended.wait(DEADLINE_S)
        return made_apart(arguments)

    monkeypatch.setattr(delivery_module, "_made_apart", made_later)
    right = bring(delivery, kind, unit, differences_of(kind, unit, Path(str(settings.model)))[0])
    wrong = bring(delivery, kind, unit, Packed("xz", lzma.compress(b"another file")))
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(right)
        with pytest.raises(WrongDigest):
            wrong()
        wrong_ended.set()
        ended.result()
    assert delivery.files.holds(unit.files[kind.file].sha256)
    assert not list((delivery.files.folder / "incoming").iterdir())


def test_a_difference_of_a_file_that_is_whole_by_now_leaves_nothing_behind(
    delivery: ModelDelivery, settings: Settings, station: Station, kind: Kind
) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    late, other = differences_of(kind, unit, Path(str(settings.model)))
    end, dropped = bring(delivery, kind, unit, late), bring(delivery, kind, unit, other)
    send(delivery, unit, kind.file)
    end()
    dropped()
    assert not list((delivery.files.folder / "incoming").iterdir())


def test_a_difference_that_was_dropped_is_asked_for_from_its_beginning(
    delivery: ModelDelivery, settings: Settings, station: Station, kind: Kind
) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    sha256 = unit.files[kind.file].sha256
    packed, _ = differences_of(kind, unit, Path(str(settings.model)))
    end = bring(delivery, kind, unit, packed)
    delivery.files.drop_differences(sha256)  # as where too many are on their way
    with pytest.raises(WrongStart) as refused:
        end()
    assert refused.value.held == 0
    bring(delivery, kind, unit, packed)()
    assert delivery.files.holds(sha256)


def test_bytes_of_a_difference_that_was_dropped_amid_its_upload_lie_behind_no_hole(
    delivery: ModelDelivery, settings: Settings, station: Station, kind: Kind
) -> None:
    unit = announce(delivery, station, kind.changed(station, "2.0"))
    sha256 = unit.files[kind.file].sha256
    packed, _ = differences_of(kind, unit, Path(str(settings.model)))
    name = delivery.files.difference_part(sha256, packed.digest)
    with delivery.upload(name, 0) as append:
        append(packed.content[:10])
        delivery.files.drop_differences(sha256)
        with pytest.raises(WrongStart) as refused:
            append(packed.content[10:])
    assert (refused.value.held, delivery.files.held_bytes(name)) == (0, 0)


def test_what_a_cut_left_of_files_being_made_goes_at_the_start(settings: Settings, ledger: Ledger) -> None:
    made = delivery_of(settings, ledger).files.made("ab" * 32)
    made.write_bytes(b"half a file")
    delivery_of(settings, ledger)
    assert not made.exists()


def test_a_model_that_comes_again_beside_its_list_copies_each_file_once(
    delivery: ModelDelivery, ledger: Ledger, station: Station, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = announce(delivery, station, kind.same(station, "2.0"))
    send(delivery, unit, "manifest.json")
    row = ledger.models.get(unit.digest)
    assert row is not None
    assert ledger.models.retire(row.id, "not wanted")
    delivery.erase(row)
    copying: list[str] = []
    adopt = delivery.files.adopt

    def adopted(source: Path, sha256: str) -> bool:
        copying.append(sha256)
        # The list comes while the file is copied, in a thread of its own.
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(delivery.lock.acquire, blocking=False)
            assert not taken.result(), "a list is taken while the same files are copied"
        return adopt(source, sha256)

    monkeypatch.setattr(delivery.files, "adopt", adopted)
    delivery.wanted_size(unit.digest)
    assert copying


@pytest.mark.parametrize("length", [1, 2, 7, 4096, 100_001])
def test_planes_of_any_length_come_back(length: int) -> None:
    random = np.random.default_rng(length)
    old, new = (random.integers(0, 256, length, dtype=np.uint8).tobytes() for _ in range(2))
    assert apply("planes", old, ground_difference.planes(old, new), length) == new


def test_a_difference_may_not_grow_without_bound() -> None:
    with pytest.raises(NoDifference, match="more than 1,001 bytes"):
        apply("xz", b"", lzma.compress(bytes(10_000_000)), 1000)
    with pytest.raises(NoDifference, match="not the same"):
        apply("planes", b"123", lzma.compress(b"1234"), 4)
