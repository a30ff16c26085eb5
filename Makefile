# The environment and the services of one machine. `make help` lists what there is.
#
# The environment is .venv, made again only where requirements*.txt change. torch is installed by pip, on its own and
# first, so that your pip configuration decides which build it is (CUDA or CPU); the rest goes by uv, or by pip where
# uv cannot reach its index. Everything that runs keeps its files under VECAP_HOME (default: .vecap here).

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements.txt)
PYTEST_ARGS ?=

.PHONY: help demo up down status test test-all test-cluster test-images secrets lint format env pins
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: $(VENV)/.installed ## a day of the miniature web through every stage by Airflow, and the results
	@$(BIN)/python -m vecap_tasks.local.demo

up: $(VENV)/.installed ## start Airflow, Dask and MLflow on this machine and leave them running
	@$(BIN)/python -m vecap_tasks.local up

down: $(VENV)/.installed ## end them, and only them
	@$(BIN)/python -m vecap_tasks.local down

status: $(VENV)/.installed ## what runs, and where
	@$(BIN)/python -m vecap_tasks.local status

test: $(VENV)/.tested ## every stage, one run of all DAGs by Airflow, one kill of each kind: ten minutes on two cores
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder --durations 30 -m "not cluster and not exhaustive" $(PYTEST_ARGS)

test-all: $(VENV)/.tested ## the tests that `make test` leaves out: all kills, backfills, the browser, every pattern
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder --durations 30 -m exhaustive $(PYTEST_ARGS)

test-cluster: $(VENV)/.tested ## the deployment's services as processes, a crawl through them (needs redis-server)
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

test-images: ## build the images over a Debian tree and try them (needs root, buildah, debootstrap)
	docker/check-images.sh

secrets: ## what docker-compose.yml wants: passwords, keys, certificates, into .env and secrets/
	@docker/secrets.sh

lint: $(VENV)/.tested ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.tested ## put the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: $(VENV)/.installed ## only make the environment

# What torch needs only where it is a CUDA build: which build that is, the installation decides.
CUDA := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton
UV_ARGS ?=
compile = @printf '%s\n' $(CUDA) | $(BIN)/uv pip compile --quiet --python-version 3.11 --excludes - \
	--custom-compile-command "make pins" $(UV_ARGS) pyproject.toml

pins: $(VENV)/.installed ## compile requirements*.txt from pyproject.toml; UV_ARGS=--upgrade for newer versions
	$(compile) --extra local --extra s3 --output-file requirements.txt
	$(compile) --extra dev --constraint requirements.txt --output-file requirements-dev.txt

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
		echo "make: Python 3.11 is needed and $(PYTHON) was not found; install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "make: $(PYTHON) is not Python 3.11; install that, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "make: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install python3.11-venv" >&2; exit 1; }
	@touch $@

# $(call install,ARGUMENTS): by uv, which is some ten times faster, else by pip.
install = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || $(BIN)/python -m pip install --quiet $(1)

$(VENV)/.installed: $(VENV)/.created requirements.txt pyproject.toml
	@echo "installing the environment into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv $(TORCH)
	@$(call install,-r requirements.txt)
	@$(call install,--no-deps -e .)
	@touch $@

$(VENV)/.tested: $(VENV)/.installed requirements-dev.txt docker/cluster.txt
	@$(call install,-r requirements-dev.txt -r docker/cluster.txt)
	@touch $@
