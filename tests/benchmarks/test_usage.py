"""Benchmarks that are modules of their own say how they are called."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import code, views, water


@pytest.mark.parametrize("module", [code, views, water], ids=["code", "views", "water"])
def test_help_is_a_usage_line(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {module.__name__} ")


@pytest.mark.parametrize("module", [views, water], ids=["views", "water"])
def test_without_a_run_they_ask_for_one(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        module.main([])
    assert end.value.code == 2
    assert "RUN" in capsys.readouterr().err


def test_a_folder_that_is_no_checkout_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        code.main([str(tmp_path)])
    assert end.value.code == 2
    assert "is no checkout" in capsys.readouterr().err
