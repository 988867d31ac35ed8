"""`python -m tests.onboard.few_descriptors serve`: the service where the system allows 256 open files a process."""

from __future__ import annotations

import resource
import sys

from onboard.cli import main

DESCRIPTORS = 256

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    sys.exit(main())
