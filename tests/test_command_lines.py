"""What all four commands have in common: a version, an example in the help of each command, one-line errors."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from engines.command_line import bytes_text

PROGRAMS = ("onboard", "engines", "ground", "trainer")


def parser_of(program: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = importlib.import_module(f"{program}.cli")._parser()
    return parser


def commands_of(program: str) -> dict[str, Any]:
    (commands,) = (action for action in parser_of(program)._actions if isinstance(action.choices, dict))
    return dict(commands.choices or {})


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser_of(program).parse_args(["--version"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert re.fullmatch(rf"{program} (\d+\.\d+\.\d+\S*|\(a checkout that is not installed\))\n", shown)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_each_command_has_an_example_that_it_takes(program: str) -> None:
    for name, command in commands_of(program).items():
        _, _, after = (command.epilog or "").partition("example:\n")
        lines = re.findall(r"^  (.+)$", after.split("\n\n")[0], re.MULTILINE)
        assert lines, f"{program} {name} has no example"
        for line in lines:
            words = [word for word in shlex.split(line.partition(">")[0]) if "=" not in word or word.startswith("-")]
            assert words[0] == program, line
            parser_of(program).parse_args(words[1:])  # SystemExit where it is not taken


def with_verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        for one in action.choices.values() if isinstance(action.choices, dict) else ():
            yield from with_verbs(one)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_each_option_says_what_it_is_and_its_default(program: str) -> None:
    for parser in with_verbs(parser_of(program)):
        for action in parser._actions:
            if not action.option_strings:
                continue
            assert action.help, (parser.prog, action.option_strings)
            has_default = action.nargs != 0 and action.default not in (None, False, 0, "", [], (), argparse.SUPPRESS)
            assert not has_default or "default" in action.help, (parser.prog, action.option_strings)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_option_is_one_line_that_says_where_help_is(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser_of(program).parse_args(["--no-such-option"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bytes_in_the_unit_that_a_person_reads() -> None:
    numbers = [0, 999, 1000, 99_949, 99_950, 999_600, 4_200_000, 48.8e9, 1234e9]
    texts = ["0 B", "999 B", "1.0 kB", "99.9 kB", "100 kB", "1.0 MB", "4.2 MB", "48.8 GB", "1234 GB"]
    assert [bytes_text(number) for number in numbers] == texts
