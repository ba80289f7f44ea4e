# Everything a checkout needs: `make` lists it. Another Python: `make setup PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
# Made when the installation is complete, and again when what it installs has changed.
STAMP := $(VENV)/.installed
# Tests in a process a core, up to four: each takes a gigabyte.
PARALLEL := -n logical --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup test test-gpu lint demo clean

help:
	@echo "make setup     install everything into .venv (about two minutes, 4.6 GB)"
	@echo "make test      check style and types and run the tests"
	@echo "make test-gpu  only the GPU kernels' tests; on a GPU they run there, at full size"
	@echo "make demo      the journey in small: speak words, train on them, export, listen"
	@echo "make lint      style and types only"
	@echo "make clean     remove caches and what the demo made; .venv and runs stay"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "audiossm needs Python 3.11 or later. If you have one: make setup PYTHON=python3.12"; exit 1; }
	@.ci/sound-packages
	@test -x $(VENV)/bin/pip || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing audiossm and PyTorch into $(VENV): about two minutes, 4.6 GB the first time"
	@$(RUN) pip install -qq --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@$(RUN) pip install -qq --disable-pip-version-check -c constraints.txt pesq 2>/dev/null \
		|| echo "pesq could not be compiled (it takes a C compiler): enhanced speech is not scored, all else works"
	@$(RUN) compileall -qq -j 0 $(VENV)/lib || true  # on all cores: pip takes one; some files are not for this Python
	@touch $@
	@echo "Ready. Try: $(VENV)/bin/audiossm --help"

test: lint
	@echo "Running the tests"
	@$(RUN) pytest -q $(PARALLEL)

# A process a file: after a fault in one kernel a process can use its GPU no more.
test-gpu: $(STAMP)
	@if $(VENV)/bin/python -c 'import torch; print("Testing on", torch.cuda.get_device_name())' 2>/dev/null; then \
		for file in tests/test_gpu_*.py; do echo $$file; $(RUN) pytest -q -r fE $$file || failed="$$failed $$file"; done; \
		test -z "$$failed" && echo "All passed" || { echo "Failed:$$failed"; exit 1; } \
	else \
		echo "No GPU here: kernels are interpreted on the CPU at small sizes, and compiled, but none is run on a GPU"; \
		$(RUN) pytest -q $(PARALLEL) tests/test_interpreter.py tests/test_gpu_compiles.py; \
	fi

# mypy does not know pyproject.toml's package-dir: it is shown the installed layout, made of links.
HOUSE := .mypy_cache/house
lint: $(STAMP)
	@echo "Checking the style (ruff)"
	@$(RUN) ruff check -q .
	@$(RUN) ruff format -q --check .
	@echo "Checking the types (mypy)"
	@rm -rf $(HOUSE) && mkdir -p $(HOUSE)/audiossm
	@ln -s $(CURDIR)/audiossm/* $(CURDIR)/kernels $(CURDIR)/export $(CURDIR)/models $(HOUSE)/audiossm
	@cd $(HOUSE) && $(CURDIR)/$(RUN) mypy --no-error-summary --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache

demo: $(STAMP)
	@$(VENV)/bin/python demos/journey.py

clean:
	@echo "Removing caches and the demo's folder (to remove the installation too: rm -r $(VENV))"
	@rm -rf build dist audiossm.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .audiossm-demo .audiossm-custom
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
