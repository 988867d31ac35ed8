"""Settings of the service: environment variables with one prefix, checked at the start, each with its meaning."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from onboard.errors import OptionsRefused
from onboard.setting_groups import (
    GROUPS,
    RENAMED,
    IntegritySettings,
    LinkSettings,
    MappingSettings,
    PowerSettings,
    SecuritySettings,
    ServiceSettings,
    StorageSettings,
    UplinkSettings,
)

PREFIX = "ONBOARD_"
TOKEN = "ONBOARD_TOKEN"  # noqa: S105 -- the name of a variable
"""No setting, though it has the prefix: the token by which `onboard report URL` asks a service."""


class Settings(
    ServiceSettings, MappingSettings, IntegritySettings, StorageSettings, PowerSettings, LinkSettings, UplinkSettings,
    SecuritySettings, BaseSettings,
):  # fmt: skip
    """All settings of `onboard serve`; `onboard settings` prints them with values and defaults."""

    # frozen: what was checked at the start holds; another model is a copy (`ActiveModel.settings_for`).
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    @field_validator("data_dir", "inbox", "tokens_file", "areas", "trust_root")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @property
    def tokens_path(self) -> Path:
        """Where tokens are kept."""
        return self.tokens_file or self.data_dir / "tokens.json"

    @property
    def scenes_dir(self) -> Path:
        """A folder a scene."""
        return self.data_dir / "scenes"

    @property
    def maps_dir(self) -> Path:
        """A folder a map."""
        return self.data_dir / "maps"

    @property
    def canvases_dir(self) -> Path:
        """A folder a scene that is being mapped."""
        return self.data_dir / "canvases"

    @property
    def telemetry_dir(self) -> Path:
        """History and calibration."""
        return self.data_dir / "telemetry"

    @property
    def models_dir(self) -> Path:
        """Models that came up the link, and whose signatures count."""
        return self.data_dir / "models"

    @property
    def ledger_path(self) -> Path:
        """The SQLite file."""
        return self.data_dir / "ledger.sqlite"


@dataclass(frozen=True)
class SettingLine:
    """One setting as `onboard settings` shows it."""

    group: str
    key: str
    value: Any
    default: Any
    meaning: str


def read_settings(**given: Any) -> Settings:
    """Settings of the environment; ``given`` ones win.

    Raises:
        OptionsRefused: an ONBOARD_ variable that is none of them (nor :data:`TOKEN`), or a value that cannot be.
    """
    # pydantic-settings passes over variables that it does not know: a limit that is misspelt would not be kept.
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for key in os.environ:
        if key.upper().startswith(PREFIX) and key.upper() not in (*known, TOKEN):
            renamed = RENAMED.get(key.upper().removeprefix(PREFIX).lower())
            if renamed is not None:
                raise OptionsRefused(f"the setting {key} has a new name", f"write {PREFIX}{renamed.upper()}")
            near = difflib.get_close_matches(key.upper(), known, 1)
            hint = f"did you mean {near[0]}?" if near else "`onboard settings` lists them"
            raise OptionsRefused(f"there is no setting {key}", hint)
    try:
        return Settings(**given)
    except ValidationError as error:
        # The first one is enough: the start is refused with one line, and tried again.
        row = error.errors()[0]
        name = PREFIX + str(row["loc"][0]).upper().removeprefix(PREFIX) if row["loc"] else PREFIX
        problem = f"{name} is {row.get('input')!r}: {row['msg']}"
        raise OptionsRefused(problem, "`onboard settings` says what it means") from None


def setting_lines(settings: Settings) -> list[SettingLine]:
    """Every setting with its value, default and meaning, group by group."""
    return [
        SettingLine(group, PREFIX + name.upper(), getattr(settings, name), field.default, field.description or "")
        for group, kind in GROUPS.items()
        for name, field in kind.model_fields.items()
    ]


def settings_as_json(settings: Settings) -> str:
    """For programs."""
    rows = [line.__dict__ for line in setting_lines(settings)]
    return json.dumps(rows, indent=1, default=str)


def settings_as_text(settings: Settings) -> str:
    """For people, under a heading for each group: a changed value is marked with a star."""
    lines = setting_lines(settings)
    width = max(len(line.key) for line in lines)
    shown: list[str] = []
    for group, kind in GROUPS.items():
        shown.append(f"{group}: {kind.__doc__}")
        for line in (line for line in lines if line.group == group):
            mark = " " if line.value == line.default else "*"
            default = "" if mark == " " else f" (default: {_shown(line.default)})"
            shown.append(f"{mark} {line.key:<{width}}  {_shown(line.value)}{default}\n  {'':<{width}}  {line.meaning}")
    return "\n".join(shown)


def _shown(value: Any) -> str:
    """A value as a person reads it; `on` and `off` are also what the variable may be set to."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not set" if value in (None, "", ()) else str(value)
