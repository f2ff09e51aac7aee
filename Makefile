# Every command a person types. `make` alone prints them.

PYTHON ?= python3
MODE   ?= auto
SCALE  ?=
PIP    := .venv/bin/python -m pip install -qq --disable-pip-version-check
RUN    := .venv/bin/rqstack
START   = $(RUN) stack start --mode $(MODE) $(addprefix --scale ,$(SCALE))

# Virtual environments hold their own path, so one that came along with a folder that was moved is made anew.
MOVED := $(if $(wildcard .venv/bin/rqstack),$(shell grep -qsF '$(realpath .venv)/bin/' .venv/bin/rqstack || echo moved))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup start stop status logs start-rq-mon stop-rq-mon stop-mon deploy-tasks rollback-tasks pin-images test lint dashboards lock package-table diagram bench faults fuzz clean

help: ## Print this
	@echo "make TARGET [MODE=auto|local|compose] [SCALE=worker=8] [PYTHON=python3]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1@\2/p' Makefile | while IFS=@ read -r name what; do printf '%-18s %s\n' "  $$name" "$$what"; done

# -- The environment: locked requirements, then this package from where it is

.venv/bin/python: $(MOVED)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11. Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making the environment .venv"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

.PHONY: moved
moved:
	@echo "This folder was moved, or .venv was copied: making .venv anew"
	@rm -rf .venv

.venv/.installed: requirements/build.txt requirements/local.txt pyproject.toml $(MOVED) | .venv/bin/python
	@echo "Installing the locked requirements"
	@$(PIP) --require-hashes -r requirements/build.txt
	@$(PIP) --require-hashes -r requirements/local.txt
	@$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

.venv/.installed-dev: requirements/dev.txt .venv/.installed
	@echo "Installing what tests and linters need"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# -- The stack

setup: .venv/.installed ## Make .venv, and .env with random secrets if there is none
	@$(RUN) stack setup

start: .venv/.installed ## Start the stack in the background, and wait until it is healthy
	@$(START)

stop: .venv/.installed ## Stop it; no job is lost
	@$(RUN) stack stop --mode $(MODE)

status: .venv/.installed ## Show what runs, and where
	@$(RUN) stack status --mode $(MODE)

logs: .venv/.installed ## Follow the logs until Ctrl-C
	@$(RUN) stack logs --mode $(MODE) --follow

start-rq-mon: .venv/.installed ## Start the stack with rq-exporter, Prometheus, Grafana and the jobs page
	@$(START) --monitoring

stop-rq-mon: .venv/.installed ## Stop everything, monitoring included
	@$(RUN) stack stop --mode $(MODE) --monitoring

stop-mon: .venv/.installed ## Stop monitoring alone
	@$(RUN) stack stop --mode $(MODE) --only-monitoring

deploy-tasks: .venv/.installed ## Ship the code in tasks/ to the running workers, without restarting one
	@$(RUN) stack deploy-tasks --mode $(MODE)

rollback-tasks: .venv/.installed ## Go back to the task code before it, or to RELEASE=...
	@$(RUN) stack rollback-tasks --mode $(MODE) $(RELEASE)

pin-images: .venv/.installed ## Write the digests of the public images into .env; needs a registry
	@$(RUN) stack pin-images

# -- Development

test: .venv/.installed-dev ## Run the linters and every test that this machine can run; RQ=3.1.0 tries another RQ
	@$(if $(RQ),.ci/test-rq $(RQ),.ci/test)

lint: .venv/.installed-dev ## Run the linters
	@.ci/lint

dashboards: .venv/.installed-dev ## Write grafana/dashboards/*.json from grafana/build.py
	@.venv/bin/python grafana/build.py

lock: .venv/.installed-dev ## Compile requirements/*.txt and the lists of settings (OPTIONS=--upgrade for newer versions)
	@requirements/lock $(OPTIONS)
	@$(RUN) stack env-example > .env.example
	@{ sed '/<!-- settings -->/q' docs/settings.md; echo; $(RUN) stack env-example --markdown; } > docs/settings.md.new
	@mv docs/settings.md.new docs/settings.md

package-table: .venv/.installed-dev ## Write the table of packages in docs/architecture.md
	@.venv/bin/python docs/package_table.py

diagram: ## Draw docs/architecture.svg from its text (needs graphviz)
	@dot -Tsvg docs/architecture.dot -o docs/architecture.svg

bench: .venv/.installed-dev ## Benchmark against other task queues; QUICK=1 for a short run
	@.venv/bin/python -m bench $(if $(QUICK),--quick) $(OPTIONS)

faults: .venv/.installed-dev ## Run JOBS=6000 jobs under twelve kinds of faults, and account for each job
	@PYTHONPATH=tests .venv/bin/python -m fault_run $(addprefix --jobs ,$(JOBS)) $(OPTIONS)

fuzz: .venv/.installed-dev ## Write RECORDS=20000 hostile records to Redis while all processes run and are restarted
	@PYTHONPATH=tests .venv/bin/python -m fuzz_run $(addprefix --records ,$(RECORDS)) $(OPTIONS)

clean: ## Remove environments and caches; keeps .env and var/
	@rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
