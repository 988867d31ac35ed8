from __future__ import annotations

import os
import subprocess
import sys

from onboard.processes.child import lines_of

PROGRAM = """
import sys, threading
from onboard.processes.child import lines_of
told = threading.Event()
def listen():
    for line in lines_of(0):
        told.set()
threading.Thread(target=listen, daemon=True).start()
told.wait()
print("ends now", flush=True)
"""


def test_lines_come_whole_however_they_were_cut() -> None:
    reading, writing = os.pipe()
    for part in (b"on", b"e\ntwo\n\nth", b"ree\ncut off"):
        os.write(writing, part)
    os.close(writing)
    assert list(lines_of(reading)) == [b"one", b"two", b"", b"three"]
    os.close(reading)


def test_a_process_ends_in_peace_while_a_thread_waits_for_a_line() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(b"one\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"ends now\n"
        assert child.wait(30) == 0  # with the pipe still open
        assert child.stderr.read() == b""
