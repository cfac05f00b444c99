# Each command makes what it needs from nothing but Python 3.11+ and pip.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# Where it is set, each of pytest's workers compiles all tests anew, and each child process safedial.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test storm peers kernels check coverage bench clean

demo: $(VENV)/demo.stamp
	$(BIN)/safedial demo

# Three workers for two cores: half of the suite waits for the kernel. No test asserts a wall-clock time.
test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 3 -m "not storm" $(ARGS)

# At full size: 800,000 dials, 20,000 that time out, an interrupt at every call, CPython's own tests. Most of it waits.
storm: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 4 -m storm $(ARGS)

# Peers' own suites, from their sdists, with install() in place as without: ARGS="urllib3 redis" names some.
peers: $(VENV)/test.stamp
	$(BIN)/python -m tests.peers $(ARGS)

# The guard's tests on older and newer kernels, in emulated machines: ARGS="bullseye sid" names suites of Debian.
kernels: $(VENV)/test.stamp
	$(BIN)/python -m tests.kernels $(ARGS)

check: $(VENV)/check.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

coverage: $(VENV)/test.stamp
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 3 -m "not storm" $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

bench: $(VENV)/test.stamp
	$(BIN)/python -m bench.dial
	$(BIN)/python -m bench.ports
	$(BIN)/python -m bench.happy_eyeballs
	$(BIN)/python -m bench.check
	$(BIN)/python -m bench.in_the_way
	$(BIN)/python -m bench.doctor
	$(BIN)/python -m bench.plugin

clean:
	rm -rf $(VENV)

# PEP 735's dependency groups need pip 25.1.
$(VENV)/pip.stamp:
	@$(PYTHON) -c 'import sys; sys.exit("safedial needs Python 3.11 or later: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "pip>=25.1"
	touch $@

$(VENV)/demo.stamp: $(VENV)/pip.stamp pyproject.toml
	$(BIN)/python -m pip install -q -e ".[cli]"
	touch $@

$(VENV)/test.stamp: $(VENV)/pip.stamp pyproject.toml
	$(BIN)/python -m pip install -q -e ".[cli]" --group test
	touch $@

$(VENV)/check.stamp: $(VENV)/pip.stamp pyproject.toml
	$(BIN)/python -m pip install -q -e ".[cli]" --group test --group check
	touch $@
