# Two commands: `make paper` regenerates the paper, `make test` passes its tests.
PYTHON ?= python3
BIN := .venv/bin
export UV_SYSTEM_CERTS ?= 1
TESTS ?= tests
# some virtual machines announce AMX and lack it
KERNELS = env $$($(BIN)/python -c 'from medfolio.paper import kernels; [print(f"{k}={v}") for k, v in kernels().items()]')
READY := .venv/.ready-$(shell git hash-object requirements.lock pyproject.toml | cut -c1-12 | paste -sd- -)

paper: $(READY)  ## data, runs, figures, tables, pages and README, then the site in _site/
	@$(BIN)/medfolio paper
	@$(BIN)/medfolio site

test: $(READY)  ## every notebook and every test
	@rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/ipython/numba_cache"  # numba knows a cell's text, not what it calls
	$(KERNELS) OMP_NUM_THREADS=1 $(BIN)/nbdev_test  # as many notebooks as cores, a thread each
	$(KERNELS) $(BIN)/pytest $(TESTS)

setup: $(READY)  ## the environment in .venv, from the lock

hooks: $(READY)  ## clean notebooks and readable merges: for contributors, once a clone
	$(BIN)/nbdev_install_hooks

lock: $(READY)  ## resolve requirements.in again
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' \
		requirements.in -o requirements.lock
	sed -n 's/ *\\$$//; /^[a-z0-9]/p' requirements.lock > requirements.txt

clean:  ## all that can be made again, but for the environment and the results
	rm -rf _site _build _proc figures/_* .pytest_cache

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' Makefile

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medfolio needs Python 3.11 or newer: make PYTHON=/path/to/python")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	@echo "setting up .venv from requirements.lock (a minute or two, once)"
	@$(BIN)/uv pip sync -q --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install -q --no-deps --no-build-isolation --python $(BIN)/python -e .
	@rm -f .venv/.ready-* && touch $(READY)

.PHONY: paper test setup hooks lock clean help
