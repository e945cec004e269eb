# Every target sets up what it needs by itself, in .venv-k2 or .venv-torch.

# k2: torch 1.13.1 and the k2 that PyPI has; torch: current torch, no k2
ENGINE ?= k2
# with ENGINE=k2: another torch and k2, e.g. TORCH=2.7.1 K2_WHEELS=<k2's page of wheels>
export TORCH K2_WHEELS PYTHON

IN_VENV := requirements/venv.sh $(ENGINE)

.PHONY: help install run test check fuzz api bench format kaldifeat clean

help: ## list these targets
	@sed -nE 's/^([a-z0-9]+): ## (.*)/make \1\t\2/p' Makefile | expand -t 16
	@echo 'ENGINE=k2 (default) or ENGINE=torch chooses the environment: see README.md'

install: ## make the environment
	@$(IN_VENV)

run: ## prepare real speech, train, decode, release and transcribe (egs/asterisk)
	@$(IN_VENV) egs/asterisk/ASR/run.sh

test: ## run the whole suite in both environments
	@tests/run.sh

check: ## check format, lint and types; run the fast tests
	@$(IN_VENV) ruff format --check
	@$(IN_VENV) ruff check
	@$(IN_VENV) mypy
	@$(IN_VENV) pytest -m 'not slow'

fuzz: ## read FUZZ_CASES (10,000) damaged recordings, odd tables and Kaldi folders each
	@FUZZ_CASES=$${FUZZ_CASES:-10000} $(IN_VENV) pytest tests/speech/test_audio.py tests/data/test_tables.py -k any_

api: ## write a page of the package's names: build/api
	@$(IN_VENV) python docs/api.py

bench: ## measure speed and memory against peers (BENCH=--quick: does it run?)
	@requirements/venv.sh torch requirements/peers.sh python -m benchmarks.run $(BENCH)
	@requirements/venv.sh k2 requirements/peers.sh python -m benchmarks.run $(BENCH) pruned_transducer long_recordings

format: ## format the code, sort imports
	@$(IN_VENV) ruff check --select I --fix
	@$(IN_VENV) ruff format

kaldifeat: ## compile kaldifeat for ENGINE=torch
	@requirements/kaldifeat.sh

clean: ## remove environments and caches; data, experiments and models stay
	rm -rf .venv-* build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
