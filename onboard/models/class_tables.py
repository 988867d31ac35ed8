"""Class tables of heads: a head's name stands for one table, on the ground as well as aboard.

The ground reads the codes of a map by the name of its head. A head with the name of another one and with other classes
would give old codes new meanings.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TypeAlias

from engines.errors import EngineError
from engines.manifest import ClassInfo, Manifest
from engines.open import manifest_path
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.models.active import folder_of
from onboard.models.errors import ModelRefused
from onboard.settings import Settings

Table: TypeAlias = tuple[ClassInfo, ...]
MAPPING = ("active", "standby")
"""States of models that map, have mapped, or may map again without a check."""


def manifest_of(settings: Settings, row: ModelRow) -> Manifest:
    """The manifest of a model whose folder stands; kept in memory, since no manifest of a digest ever changes.

    Raises:
        EngineError: there is none, or it is damaged.
    """
    folder = folder_of(settings, row)
    return _read(Path(manifest_path(settings.model if folder is None else folder)), row.id)


# With the digest in the key: a new version of the software brings another shipped model under the same path.
@functools.lru_cache(maxsize=64)
def _read(path: Path, _model_id: str) -> Manifest:
    return Manifest.load(path)


def class_tables(manifest: Manifest) -> dict[str, Table]:
    """Classes by head; empty for a model of one graph, whose map has no head's name."""
    if not manifest.head_names:
        return {}
    return {head.name: head.classes for head in manifest.with_heads(manifest.head_names).opened_heads}


def check_class_tables(settings: Settings, ledger: Ledger, row: ModelRow, manifest: Manifest) -> None:
    """Holds the heads of a model against those of models that map, which have the same names.

    Titles and colours may change; codes and names of classes may not. A model whose manifest cannot be read is passed
    over: what is wrong with it is found when it is opened.

    Raises:
        ModelRefused: a head has other classes than the head of that name had so far.
    """
    tables = class_tables(manifest)
    for other in ledger.models.in_state(*MAPPING) if tables else ():
        if other.id == row.id:
            continue
        try:
            known = class_tables(manifest_of(settings, other))
        except EngineError:
            continue
        for name in tables.keys() & known.keys():
            if difference := first_difference(known[name], tables[name]):
                problem = f"its head {name} has other classes than that of {other.title}, which is {other.state}: "
                raise ModelRefused(problem + difference, f"give the head a new name (not {name}), sign and push again")


def first_difference(old: Table, new: Table) -> str:
    """The first code that means another class; empty where all mean the same."""
    # By names and not by titles: a title may be translated or mended, a name stands in items and areas.
    before, after = ({item.code: item.name for item in table} for table in (old, new))
    for code in sorted(before.keys() | after.keys()):
        if before.get(code) != after.get(code):
            return f"code {code} was {before.get(code, 'none')}, would be {after.get(code, 'none')}"
    return ""
