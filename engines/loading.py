"""Loads the package of a runtime, which may be absent, broken, or a folder that an uninstallation left behind."""

from __future__ import annotations

import importlib
from types import ModuleType


def load_package(name: str) -> ModuleType:
    """The package, with its `__version__`.

    Raises:
        ImportError: it is not there, or is not whole.
        OSError: one of its libraries does not load.
    """
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError):
        raise
    # Runtimes built against another NumPy raise AttributeError or RuntimeError: one that does not load is a backend
    # less, and no reason for the others to end.
    except Exception as error:
        raise ImportError(f"{name} does not load: {type(error).__name__}: {error}", name=name) from error
    # A folder without an __init__.py is a package to Python, an empty one.
    if not hasattr(module, "__version__"):
        raise ImportError(f"{name} is a folder without its package, perhaps the rest of an installation", name=name)
    return module
