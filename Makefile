# A newcomer types `make demo`, a developer `make test`; both share .venv, which is made on the way.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH ?= $(sort $(wildcard benchmarks/bench_*.py))

BASE := $(VENV)/base.stamp
DEV := $(VENV)/dev.stamp
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format bench clean
.DELETE_ON_ERROR:

help: ## this text
	@echo "make TARGET, where TARGET is one of"
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 12
	@echo "PYTHON=python3.12 make ... takes another Python (3.11 or newer) where $(VENV) is made for the first time."

demo: demo/clip.stamp demo/portraits.stamp ## render a little 360° clip and cut it into views, and six portraits and light them anew
	$(BIN)/lightmill split360 demo/clip/clip.mp4 demo/out --fps 2 --rig ring8 --masks demo/clip/masks --export colmap
	$(BIN)/lightmill relight demo/portraits/portraits.csv demo/lit --variants 2

test: $(DEV) ## everything that a change must pass: style, types, floors, tests
	@$(call step,ruff check,$(BIN)/ruff check)
	@$(call step,ruff format --check,$(BIN)/ruff format --check)
	@$(call step,mypy,$(BIN)/mypy)
	@$(call step,lint-imports,$(BIN)/lint-imports --no-logo)
	@$(call step,pytest,$(BIN)/python -m pytest -q)

lint: $(DEV) ## style and floors only
	@$(call step,ruff check,$(BIN)/ruff check)
	@$(call step,ruff format --check,$(BIN)/ruff format --check)
	@$(call step,lint-imports,$(BIN)/lint-imports --no-logo)

types: $(DEV) ## types only
	@$(call step,mypy,$(BIN)/mypy)

format: $(DEV) ## rewrite the code in our style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(DEV) ## print what every benchmark measures; BENCH="benchmarks/bench_x.py" for one
	@test -n "$(BENCH)" || { echo "there is no benchmarks/bench_*.py yet" >&2; exit 1; }
	@for bench in $(BENCH); do echo "== $$bench"; $(BIN)/python "$$bench" || exit 1; done

clean: ## remove the demo, builds and caches; .venv stays
	rm -rf demo dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# rendering is most of the wait: a repeated `make demo` renders nothing
demo/clip.stamp: $(wildcard src/lightmill/sample/*.py) | $(BASE)
	$(BIN)/python -m lightmill.sample demo/clip
	@touch $@

demo/portraits.stamp: $(wildcard src/lightmill/sample/*.py) | $(BASE)
	$(BIN)/python -m lightmill.sample portraits demo/portraits --count 6 --size 512x512 --seed 8
	@touch $@

# make cannot say which line of a recipe failed; this does
define step
echo "== $(1)"; $(2) || { echo "make: stopped at the step \"$(1)\", which failed (see above)" >&2; exit 1; }
endef

# A stamp is touched after an install and depends on what decides about it: a repeated make installs nothing.
$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "make: there is no '$(PYTHON)' here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: Lightmill needs Python 3.11 or newer, and '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1); name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: '$(PYTHON)' cannot make virtual environments; on Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Lightmill into $(VENV) ..."
	$(INSTALL) .
	@touch $@

$(DEV): $(BASE)
	@echo "installing the tools of developers into $(VENV) (with torch: some minutes the first time) ..."
	$(INSTALL) ".[dev]"
	@touch $@
