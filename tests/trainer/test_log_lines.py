from __future__ import annotations

import os
import subprocess
import sys

TELLS = """
import logging
from trainer.log_lines import StdoutHandler
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[StdoutHandler()])
for number in range(5):
    logging.info("step %d", number)
"""


def test_a_reader_that_left_ends_no_run_and_is_no_error() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([sys.executable, "-c", TELLS], stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")


def test_lines_go_to_stdout_and_other_errors_are_still_told() -> None:
    code = TELLS + 'logging.info("%d steps", "many")\n'
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"step {number}" for number in range(5)]
    assert "--- Logging error ---" in done.stderr
