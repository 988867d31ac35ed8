#!/bin/sh
# The tests beside a poisoned cache and under load: tests/hermetic.sh [pytest's arguments]
#   PYTHON    the interpreter (default: .venv/bin/python)
#   POISON    the backend that the cache names for every model (default: openvino)
#   BUSY      processes that keep the cores busy (default: one a core)
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
POISON=${POISON:-openvino}
BUSY=${BUSY:-$(nproc)}

home=$(mktemp -d)
busy=""
clean() {
    for pid in $busy; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$home"
}
trap clean EXIT
trap 'exit 130' INT TERM

# What a test takes for the user's home and cache: a test that reads either follows the poison.
export HOME="$home" XDG_CACHE_HOME="$home/.cache" ENGINES_CACHE_DIR="$home/.cache/onboard-landcover"
export ONBOARD_BACKEND="$POISON" ONBOARD_THREADS=3 ONBOARD_SIEVE_PX=50
# How fast a busy machine is decides no test: what must come may take its time.
export TEST_DEADLINE_S="${TEST_DEADLINE_S:-600}"
"$PYTHON" -m tests.poisoned_cache "$ENGINES_CACHE_DIR" "$POISON"

while [ "$BUSY" -gt 0 ]; do
    "$PYTHON" -c 'while True: pass' &
    busy="$busy $!"
    BUSY=$((BUSY - 1))
done
"$PYTHON" -m pytest "$@"
