# make demo   map a made scene (or SCENE=path.tif) and print where everything is
# make wheel   a wheel with the shipped models, and a source distribution;  make lock  the pinned packages of the images
# make test   run the tests;  make check  ruff and mypy;  make bench  the benchmarks
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= out

# make console   a demo satellite, passes, and the ground's console over them; prints the address
# make campaign   the long version of the tests that kill
# make bench-peers   the same job by other tools, in an environment of its own; hours on two cores
PEERS  ?= .venv-peers
# make radiation   bits of weights, buffers, canvas and scene are flipped: docs/radiation.md; an hour or more
# make test-hermetic   the tests beside a poisoned cache of chosen backends and under load; TESTS=... names some of them
TESTS  ?=

.PHONY: demo console wheel lock test test-hermetic check bench bench-peers campaign radiation pictures clean

# OpenVINO, 60 MB and 180 MB installed, where `auto` prefers it: on x86-64. FAST_CPU= leaves it out.
FAST_CPU ?= $(filter x86_64 AMD64,$(shell uname -m))
# Two stamps: the demo needs no torch (a few hundred MB), the tests do.
$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
ifneq ($(FAST_CPU),)
	$(BIN)/python -m pip install -q --disable-pip-version-check --only-binary openvino -e '.[openvino]' \
	  || echo "no OpenVINO for this Python: ONNX Runtime maps, at under half the speed on CPUs with bfloat16 (docs/models.md)"
endif
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev,trainer]'
	touch $@

# Without SCENE, a made landscape of 3072x3072 pixels is mapped.
demo: $(VENV)/.run
ifdef SCENE
	$(BIN)/onboard process '$(SCENE)' --out $(OUT)
else
	@mkdir -p $(OUT)
	$(BIN)/python -m trainer.data.landscape --size 3072 --seed 7 --out $(OUT)/landscape.tif
	$(BIN)/onboard process $(OUT)/landscape.tif --out $(OUT)
endif

$(VENV)/.console: pyproject.toml $(VENV)/.run
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[console]'
	touch $@

console: $(VENV)/.console
	$(BIN)/python -m benchmarks.console_demo --folder $(OUT)/console

# A process a core, each with one thread: threads that share a core wait for one another. JOBS=1 for one after the other.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 8 ] && echo 8 || echo $$n)
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-hermetic: $(VENV)/.dev
	PYTHON=$(BIN)/python tests/hermetic.sh $(TESTS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Hundreds of SIGKILLs and other faults, with one map a scene and with two; thousands of power cuts; a trained head that goes
# up to the shipped model (needs ../shared/data); 500 damaged TIFFs: an hour or two. What
# must come may take its time: a busy machine needs more than a minute for a start.
campaign: $(VENV)/.dev
	TEST_DEADLINE_S=600 $(BIN)/python -m tests.onboard.campaign --kills 200
	TEST_DEADLINE_S=600 $(BIN)/python -m tests.onboard.campaign --kills 200 --heads
	POWER_CUTS=2000 $(BIN)/python -m pytest tests/onboard/jobs/test_powercut.py tests/onboard/models/test_powercuts.py -k no_power_cut
	TEST_DEADLINE_S=600 $(BIN)/python -m tests.onboard.models.real_story
	ODD_SCENES=500 $(BIN)/python -m pytest tests/onboard/api/test_odd_scenes.py

# Without AMX or AVX-512 bfloat16 leave the second backend out: RADIATION="--backends onnxruntime".
radiation: $(VENV)/.dev
	$(BIN)/python -m tests.onboard.radiation $(RADIATION)

# A wheel with the shipped models inside, and a source distribution, in dist/.
wheel: $(VENV)/.run
	$(BIN)/python -m pip install -q --disable-pip-version-check 'build>=1.2,<2'
	$(BIN)/python -m build --outdir dist .

# Every package of the Docker images, pinned with hashes: docker/requirements/*.txt. Read the difference, then commit it.
lock: $(VENV)/.run
	$(BIN)/python -m pip install -q --disable-pip-version-check 'uv>=0.5'
	PATH="$(abspath $(BIN)):$$PATH" sh docker/lock.sh

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

$(PEERS)/.done: benchmarks/peers/requirements.txt benchmarks/peers/alone.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check -e . -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check --no-deps -r benchmarks/peers/alone.txt
	touch $@

bench-peers: $(PEERS)/.done
	$(PEERS)/bin/python -m benchmarks.peers

# The README's pictures, from ../shared/data and a made landscape.
pictures: $(VENV)/.dev
	$(BIN)/python -m benchmarks.pictures

clean:
	rm -rf $(VENV) $(PEERS) $(OUT) dist .pytest_cache .mypy_cache .ruff_cache build *.egg-info
