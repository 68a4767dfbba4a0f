# Every target sets up what it needs in .venv first; that happens again only when one of the files in $(SETUP) changes.
PYTHON ?= python3
RUN := .venv/bin/python
SETUP := setup_env.py pyproject.toml constraints.txt requirements-assets.txt
MINI := .venv/.ready-mini
EVAL := .venv/.ready-mini,eval
DEV := .venv/.ready-mini,eval,rl,track,trackio,ui,dev
DOCS := .venv/.ready-docs
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1  # no look for a newer pyright
export PYTHONDONTWRITEBYTECODE :=  # else each command that the tests start would compile all modules again

.PHONY: constraints help quickstart showcase clean-run setup check test lint types tests fast-tests test-browser docs wheel base reward results corpus

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

quickstart: $(EVAL) ## the whole job in about 14 minutes: evaluate, train by GRPO and by draft, evaluate again; goes on where it stopped
	$(RUN) -m recipes.digits.quickstart

showcase: $(DEV) ## renew docs/quickstart.png and docs/audio from runs/quickstart, and print the tables of README and docs (ITEM=ID: other clips)
	@$(RUN) -m recipes.digits.showcase $(if $(ITEM),--item $(ITEM))

clean-run: ## forget the quick start's run, so that the next one starts over
	rm -rf runs/quickstart

setup: $(DEV) ## the environment alone, with all that development needs

check: $(DEV) ## lint, types and the fast tests, side by side
	@$(MAKE) --no-print-directory -k -j 3 lint types fast-tests

test: $(DEV) ## lint, types and all tests, side by side
	@$(MAKE) --no-print-directory -k -j 3 lint types tests

lint: $(DEV)
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: $(DEV)
	.venv/bin/pyright

# Models are so small that threads would only wait for each other. A file's tests stay together, since they share runs.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(if $(CI),--durations=40)

tests: $(DEV)
	$(PYTEST)
	@$(RUN) -m tests.browser.chromium

test-browser: $(DEV) ## the tests in a browser, Chromium, which is installed by apt where that is allowed
	@$(RUN) -m tests.browser.chromium --install
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m browser

fast-tests: $(DEV)
	$(PYTEST) -m "not slow and not soak and not browser" --ignore tests/e2e --ignore tests/fuzz

test-gpu: $(DEV) ## updates at the published size on a GPU, with their memory and time: runs/gpu/report.json
	@$(RUN) -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'make test-gpu needs a CUDA GPU, and PyTorch finds none; make rehearsal takes the CPU')"
	F5_TTS_TEST_SIZE=full $(RUN) -m pytest -s -m soak tests/gpu

rehearsal: $(DEV) ## the same updates of both stages on the CPU, each in a process whose memory is measured (11 GB, some minutes)
	F5_TTS_TEST_SIZE=full $(RUN) -m pytest -s -m soak tests/gpu -k stage_1
	F5_TTS_TEST_SIZE=full $(RUN) -m pytest -s -m soak tests/gpu -k budget

docs: $(DOCS) ## build the documentation site into site/ (needs Python 3.11 or newer)
	@$(RUN) -c "import zensical" 2>/dev/null || { echo "make docs needs Python 3.11 or newer in .venv: rm -rf .venv, then make PYTHON=python3.13 docs" >&2; exit 2; }
	@output=$$($(RUN) -m zensical build --clean --strict 2>&1); code=$$?; echo "$$output"; test $$code = 0 && ! echo "$$output" | grep -q "^griffe:"

constraints: ## copy constraints.txt to pyproject.toml, where uv reads it
	$(PYTHON) setup_env.py --constraints

wheel: ## build the wheel, install it in an empty environment elsewhere, and train two updates from there
	$(PYTHON) tests/wheel/check_wheel.py

base: $(MINI) ## train the base model again, from the corpus on (about half an hour on 2 cores)
	$(RUN) -m recipes.digits.make_corpus base
	$(RUN) -m f5_tts.train.train -cn F5TTS_Mini ckpts.save_dir=runs/base
	$(RUN) -m f5_tts.scripts.export runs/base/model_last.pt runs/base/export
	$(RUN) -m f5_tts.scripts.evaluate -cn F5TTS_Mini datasets.name=mini eval.ckpt=runs/base/export/model_800.safetensors eval.out=runs/base/eval

reward: $(MINI) ## train the recognizers of the reward digits_ctc and the speaker judge again (about ten minutes on one core)
	$(RUN) -m recipes.digits.make_corpus base
	$(RUN) -m recipes.digits.train_reward
	$(RUN) -m recipes.digits.train_speaker_judge

results: $(EVAL) ## every algorithm at equal CPU time: 3 seeds, measured by judges that are no rewards (about an hour and a half)
	$(RUN) -m recipes.digits.results

corpus: $(MINI) ## make the shipped speech anew, from its seed
	$(RUN) -m recipes.digits.make_corpus mini --force

.venv/.ready-%: $(SETUP)
	@$(PYTHON) setup_env.py --extras $*
