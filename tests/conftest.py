"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.own_process"]

# Machines are shared: how long an example takes says nothing about the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

HOME_FOLDERS = {"HOME": "", "XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config", "XDG_DATA_HOME": ".local/share"}


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of the run's own: what the user chose, built or set before decides no test.

    Set in the environment, for tests start processes. Fixtures of session scope that a test names come after this one.
    """
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for variable in [*os.environ]:
            if variable.startswith(("ONBOARD_", "ENGINES_", "XDG_")):
                patch.delenv(variable)
        for variable, folder in HOME_FOLDERS.items():
            patch.setenv(variable, str(home / folder))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real imagery beside the checkout; tests that need it skip by name where it is missing."""
    folder = Path(os.environ.get("SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real imagery not at hand: {folder} (set SHARED_DATA)")
    return folder
