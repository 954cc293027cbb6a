# What a target does with networks is one call of the command line; `pcpad COMMAND --help` explains all options, ARGS passes more of them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help setup train adapt eval border export inspect study table report doctor docs tensorboard test test-full test-zoo test-slurm test-soak test-gpu bench bench-gpu lint format lock

# PYTHON=python3 uses an environment that is there already; without it .venv is made on first use.
ifdef PYTHON
PY := $(PYTHON)
READY :=
else
PY := .venv/bin/python
READY := .venv/.ready
endif
PCPAD := $(PY) -m pcpad
option = $(if $($(1)),$(2) '$($(1))')

help: ## list the targets and variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  variables: MODEL=resnet50 PAD=partial PADS=zeros,partial DATA=textures|imagenet|/path RECIPE=paper SEED=0 GPUS=1"
	@echo "             RUN=runs/... SIZES=128,224 STUDY=cifar10 OUT=/path ARGS='--epochs 3' PYTHON=python3 (instead of .venv)"
	@echo "             pcpad data list: the other names that DATA takes, and how to get them"
	@echo "  example:   make train MODEL=resnet50 PAD=partial"

setup: $(READY) ## make .venv with exact versions (any target does this on first use)
	@$(PY) -c "import torch, timm; print('ready: $(PY), torch', torch.__version__, 'timm', timm.__version__)"

.venv/.ready: requirements.lock requirements-uv.lock pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh

train: $(READY) ## train MODEL with PAD on DATA by RECIPE; RUN=runs/... resumes
	$(if $(PADS),$(error make train takes one padding: PAD=$(PADS)))
	@$(PCPAD) train $(call option,MODEL,--model) $(call option,PAD,--padding) $(call option,DATA,--data.name) $(call option,RECIPE,--recipe) $(call option,SEED,--seed) $(call option,GPUS,--gpus) $(call option,RUN,--resume) $(call option,SIZES,--size) $(call option,OUT,--out) $(ARGS)

adapt: $(READY) ## bring MODEL's weights (ARGS='--weights FILE', the library's if not given) to PAD on DATA; RUN=runs/... resumes
	$(if $(PADS),$(error make adapt takes one padding: PAD=$(PADS)))
	@$(PCPAD) adapt $(call option,MODEL,--model) $(call option,PAD,--padding) $(call option,DATA,--data.name) $(call option,RECIPE,--recipe) $(call option,SEED,--seed) $(call option,GPUS,--gpus) $(call option,RUN,--resume) $(call option,SIZES,--size) $(call option,OUT,--out) $(ARGS)

eval: $(READY) ## evaluate RUN (or MODEL with ARGS='--weights FILE') over PADS and SIZES
	@$(PCPAD) eval $(call option,RUN,--run) $(call option,MODEL,--model) $(call option,PAD,--padding) $(call option,PADS,--paddings) $(call option,SIZES,--sizes) $(call option,DATA,--data.name) $(call option,OUT,--out) $(ARGS)

border: $(READY) ## what each of PADS does to features near the border: RUN, or MODEL with ARGS='--weights FILE'; no labels needed
	$(if $(PAD),$(error make border compares paddings: PADS=$(PAD)))
	@$(PCPAD) border $(call option,RUN,--run) $(call option,MODEL,--model) $(call option,PADS,--paddings) $(call option,SIZES,--size) $(call option,DATA,--data.name) $(call option,SEED,--seed) $(call option,OUT,--out) $(ARGS)

export: $(READY) ## write RUN (or MODEL with ARGS='--weights FILE') in its padding mode: ARGS='--format timm|onnx|torch'
	@$(PCPAD) export $(call option,RUN,--run) $(call option,MODEL,--model) $(call option,PAD,--padding) $(call option,SIZES,--size) $(call option,OUT,--out) $(ARGS)

inspect: $(READY) ## show what PAD would do to each layer of MODEL at SIZES, without weights
	@$(PCPAD) inspect $(call option,MODEL,--model) $(call option,PAD,--padding) $(call option,SIZES,--size) $(call option,OUT,--out) $(ARGS)

study: $(READY) ## run what is missing of STUDY; ARGS='--dry_run' lists its runs and their cost
	@$(PCPAD) study run $(call option,STUDY,--study) $(call option,DATA,--data) $(call option,GPUS,--gpus) $(ARGS)

table: $(READY) ## make the tables of STUDY from its results
	@$(PCPAD) study table $(call option,STUDY,--study) $(ARGS)

report: $(READY) ## one HTML page of STUDY, or of all studies, with tables and figures, from records alone
	@$(PCPAD) report $(call option,STUDY,--study) $(call option,OUT,--out) $(ARGS)

doctor: $(READY) ## say what is installed, whether it works, and what a training would use
	@$(PCPAD) doctor $(call option,DATA,--data) $(ARGS)

docs: $(READY) ## build the documentation into build/docs, with warnings as errors
	@$(PY) -m sphinx -W --keep-going -q -b html docs build/docs && echo "written: build/docs/index.html"

tensorboard: $(READY) ## show the curves of runs/ at http://localhost:6006
	@$(PY) -m tensorboard.main --logdir runs --host localhost $(ARGS)

test: $(READY) ## the tests, without GPU and network
	@$(PY) -m pytest -m "not gpu and not slow and not slurm" -q $$($(PY) -c "import xdist" 2>/dev/null && echo "-n 2 --dist loadfile --max-worker-restart=0") $(ARGS)

test-full: $(READY) ## the slow tests and one model of each family of the zoo; goes on where it stopped
	@$(PY) -m tests.zoo.run --families
	@$(PY) -m pytest -m "slow and not gpu and not slurm" -q --done=experiments/full_tests/passed.jsonl $(ARGS)

test-zoo: $(READY) ## prove the surgery on every model of timm and torchvision, hours; goes on where it stopped
	@$(PY) -m tests.zoo.run $(ARGS)

test-slurm: $(READY) ## the tests against a real Slurm of one node, which is started for them (needs root, slurm-wlm, munge)
	@set -e; folder=$$(mktemp -d); sh scripts/slurm/local.sh start $$folder; trap "sh scripts/slurm/local.sh stop $$folder" EXIT; \
		SLURM_CONF=$$folder/slurm.conf $(PY) -m pytest -m slurm -q $(ARGS) tests/slurm

test-soak: $(READY) ## kill a run of two processes 30 times, damage its checkpoints: it still ends as an undisturbed one
	@$(PY) -m tests.training.soak $(ARGS)

test-gpu: $(READY) ## the tests that need an NVIDIA GPU
	@$(PY) -m pytest -m gpu -q $(ARGS)

bench: $(READY) ## what paddings, loaders and training loops cost on this CPU, in an hour and a half; DATA=/path of photographs
	@$(PY) experiments/benchmarks/everything.py --device cpu $(call option,DATA,--data) $(ARGS)

bench-gpu: $(READY) ## the same on an NVIDIA GPU
	@$(PY) experiments/benchmarks/everything.py --device cuda $(call option,DATA,--data) $(ARGS)

lint: $(READY) ## ruff: lint and format
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

format: $(READY) ## ruff: mend what it can
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .

lock: $(READY) ## resolve the newest versions into requirements.lock
	@PY=$(PY) sh scripts/lock.sh
