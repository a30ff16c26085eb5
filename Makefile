# Environment and services of one machine. `make help` lists the targets.
#
# The environment is .venv, updated when requirements*.txt change. pip installs torch first, so that your pip
# configuration selects the build (CUDA or CPU); uv installs the rest, or pip if uv cannot reach its index. All services
# keep their files in VECAP_HOME (default: .vecap).

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements.txt)
PYTEST_ARGS ?=

.PHONY: help demo up down status test test-all test-cluster test-images secrets lint format docs env pins
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: $(VENV)/.installed ## run every stage on one day of the miniature web with Airflow, and print the results
	@$(BIN)/python -m vecap_tasks.local.demo

up: $(VENV)/.installed ## start Airflow, Dask and MLflow in the background
	@$(BIN)/python -m vecap_tasks.local up

down: $(VENV)/.installed ## stop the services
	@$(BIN)/python -m vecap_tasks.local down

status: $(VENV)/.installed ## show the state and URLs of the services
	@$(BIN)/python -m vecap_tasks.local status

test: $(VENV)/.tested ## test every stage, all DAGs and crash recovery (10 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder --durations 30 -m "not cluster and not exhaustive" $(PYTEST_ARGS)

test-all: $(VENV)/.tested ## run the tests that `make test` skips: all crash tests, backfills, browser, all patterns
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder --durations 30 -m exhaustive $(PYTEST_ARGS)

test-cluster: $(VENV)/.tested ## test a crawl with the deployment's services as processes (needs redis-server)
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

test-images: ## build and test the images (needs root, buildah, debootstrap)
	docker/check-images.sh

secrets: ## generate passwords, keys and certificates for docker-compose.yml (.env and secrets/)
	@docker/secrets.sh

lint: $(VENV)/.tested ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.vocabulary

format: $(VENV)/.tested ## fix style and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.tested ## generate the references and build the documentation into site/
	$(BIN)/python -m tools.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir site

env: $(VENV)/.installed ## create the environment

# Dependencies of CUDA builds of torch. Not pinned, because the installation selects the build.
CUDA := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton
UV_ARGS ?=
compile = @printf '%s\n' $(CUDA) | $(BIN)/uv pip compile --quiet --python-version 3.11 --excludes - \
	--custom-compile-command "make pins" $(UV_ARGS) pyproject.toml

pins: $(VENV)/.installed ## compile requirements*.txt from pyproject.toml; UV_ARGS=--upgrade for newer versions
	$(compile) --extra local --extra s3 --output-file requirements.txt
	$(compile) --extra dev --constraint requirements.txt --output-file requirements-dev.txt

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
		echo "make: $(PYTHON) not found; install Python 3.11, or set its path: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "make: $(PYTHON) is not Python 3.11; install Python 3.11, or set its path: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "make: $(PYTHON) cannot create a virtual environment; on Debian and Ubuntu, install python3.11-venv" >&2; exit 1; }
	@touch $@

# $(call install,ARGUMENTS): with uv, which is about ten times faster, or else pip.
install = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || $(BIN)/python -m pip install --quiet $(1)

$(VENV)/.installed: $(VENV)/.created requirements.txt pyproject.toml
	@echo "Installing the environment into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv $(TORCH)
	@$(call install,-r requirements.txt)
	@$(call install,--no-deps -e .)
	@touch $@

$(VENV)/.tested: $(VENV)/.installed requirements-dev.txt docker/cluster.txt
	@$(call install,-r requirements-dev.txt -r docker/cluster.txt)
	@touch $@
