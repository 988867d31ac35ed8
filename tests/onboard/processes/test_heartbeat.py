from __future__ import annotations

import os

import pytest

from onboard.processes.heartbeat import LONGEST_LINE, Heartbeat, HeartbeatWriter, heartbeat_of

PIPE_BUF = 4096
"""Longest write to a pipe that is whole or not at all (POSIX leaves 512 or more, Linux has a page)."""


@pytest.mark.parametrize("text", ["a" * 10_000, "ä" * 10_000, "\N{SATELLITE}" * 10_000, "\n" * 5000, "a" + "ä" * 3000])
def test_a_problem_of_any_length_leaves_a_line_that_a_pipe_takes_whole(text: str) -> None:
    beat = Heartbeat(engine="lost", engine_problem=text, model="m", tiles_done=7)
    line = beat.line()
    assert LONGEST_LINE - 20 < len(line) <= LONGEST_LINE < PIPE_BUF
    assert line.endswith(b"\n")
    told = heartbeat_of(line)
    assert told is not None
    assert (told.engine, told.model, told.tiles_done) == ("lost", "m", 7)
    assert told.engine_problem.endswith("...")
    assert text.startswith(told.engine_problem[:-3])


def test_a_problem_that_fits_is_told_whole() -> None:
    beat = Heartbeat(engine_problem="ä" * 100)
    assert heartbeat_of(beat.line()) == beat


def test_other_texts_are_cut_where_the_problem_alone_does_not_do() -> None:
    line = Heartbeat(engine_problem="x", governor_why="y" * 5000, model="z" * 5000, backend="b" * 4000).line()
    told = heartbeat_of(line)
    assert told is not None
    assert len(line) <= LONGEST_LINE
    assert (told.engine_problem, told.governor_why, told.model) == ("", "", "")
    assert told.backend.startswith("bbb")


def test_a_pipe_that_is_nearly_full_gets_whole_lines_only() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    try:
        writer = HeartbeatWriter(writing)
        for _ in range(200):  # until it is full, and beyond
            writer.change(engine="lost", engine_problem="ä" * 5000)
        os.read(reading, 6000)  # room for one line, and a part of another
        writer.change(engine="ready", engine_problem="")
        writer.change(engine="lost", engine_problem="ä" * 5000)
        data = b""
        while len(piece := os.read(reading, 1 << 20)) == 1 << 20:
            data += piece
        lines = (data + piece).splitlines(keepends=True)[2:]  # the first ones are cut by our own reading
        assert len(lines) > 5
        assert all(heartbeat_of(line) is not None for line in lines)
    finally:
        os.close(reading)
