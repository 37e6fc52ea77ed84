# make demo            pack, pretrain, listen, embed and evaluate on synthesized sounds
# make bench           benchmarks behind the speed figures of the docs
# make ablate-check    smoke test of ablations on synthesized sounds, a minute
# make gpu-check       tests and benchmarks that need a GPU, four minutes
# make test            fast tests
# make test-all        all tests: also processes, signals, kills, browser, notebooks, commands of the docs
# make lint            formatting, lint, spelling, types, import contracts
# make docs            the documentation as a site, in build/site
# make release-check   build both distributions, and try the wheel in a clean environment
# Each creates .venv if it is missing, with the interpreter PYTHON.

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
BENCH := runs/bench
ABLATE := runs/ablate-check

.PHONY: demo ablate-check test test-slow test-all bench gpu-check lint docs release-check clean

.venv/installed: pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet -e '.[all]'
	touch $@

# After an interruption it resumes; delete runs/demo to start over.
demo: .venv/installed
	test -d $(DEMO)/sounds || $(BIN)/byola-rq synthesize $(DEMO)/sounds --clips 800 --seed 0
	$(BIN)/byola-rq prepare $(DEMO)/sounds/clips $(DEMO)/packed
	$(BIN)/byola-rq pretrain config.yaml data.source=$(DEMO)/packed run.dir=$(DEMO)/trained \
	  encoder.dim=128 train.batch_size=256 train.max_steps=140 train.epochs=10000 \
	  'views.augmentations=[mixup, random_resized_crop, random_linear_fader, randomized_quantization]' \
	  byol.ema_schedule=cosine optimizer.schedule=cosine train.log_every=25 checkpoint.every_steps=50
	$(BIN)/byola-rq views $(DEMO)/sounds/clips/$$(ls $(DEMO)/sounds/clips | head -1) $(DEMO)/views.png
	$(BIN)/byola-rq listen $(DEMO)/sounds/clips/$$(ls $(DEMO)/sounds/clips | head -1) \
	  -o $(DEMO)/listen.html --model $(DEMO)/trained/encoder.safetensors
	$(BIN)/byola-rq embed $(DEMO)/sounds/clips -o $(DEMO)/embeddings --model $(DEMO)/trained/encoder.safetensors
	$(BIN)/python -m evaluate miniature $(DEMO)/sets
	$(BIN)/python -m evaluate builtin $(DEMO)/trained/encoder.safetensors --baseline random --baseline logmel \
	  --data-root $(DEMO)/sets --out $(DEMO)/results
	@echo "random and logmel are untrained: compare each row with both. A few minutes of training do not exceed them; an hour on 7 hours of real sound (builtin) does."
	@echo "scores: $(DEMO)/results/summary.md, .csv, .png   views: $(DEMO)/views.png   sounds: $(DEMO)/listen.html   model: $(DEMO)/trained/encoder.safetensors"

# Two variants, two seeds, 20 steps each: the scores mean nothing.
ablate-check: .venv/installed
	test -d $(ABLATE)/sounds || $(BIN)/byola-rq synthesize $(ABLATE)/sounds --clips 40 --seed 0
	$(BIN)/python -m evaluate miniature $(ABLATE)/sets
	$(BIN)/python -m evaluate ablate ablations/check.yaml --data $(ABLATE)/sounds/clips \
	  --data-root $(ABLATE)/sets --tasks spcv2_12 --seeds 2 --jobs 2 --out $(ABLATE)/out

# One thread per process: the tensors are small, and more threads would mostly wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# The smoke test comes first: if it fails, no other test is needed.
test: .venv/installed
	$(PYTEST) tests/test_smoke.py
	$(PYTEST) -n 2 --dist loadfile -m "not slow" --ignore tests/test_smoke.py

test-slow: .venv/installed
	$(PYTEST) -n 2 --dist loadfile -m slow

test-all: test test-slow

# Each prints its machine and also writes its table as JSON. Under 10 minutes on two cores.
bench: .venv/installed
	mkdir -p $(BENCH)
	$(BIN)/python -m benchmarks.quantize --out $(BENCH)/quantize.json
	$(BIN)/python -m benchmarks.crop --out $(BENCH)/crop.json
	$(BIN)/python -m benchmarks.frontend --out $(BENCH)/frontend.json
	$(BIN)/python -m benchmarks.views --out $(BENCH)/views.json
	$(BIN)/python -m benchmarks.encoder --out $(BENCH)/encoder.json
	$(BIN)/python -m benchmarks.step --out $(BENCH)/step.json
	$(BIN)/python -m benchmarks.corpus --rounds 3 --out $(BENCH)/corpus.json
	$(BIN)/python -m benchmarks.device_input --packed-clips 800 --rounds 3 --out $(BENCH)/device_input.json
	$(BIN)/python -m benchmarks.probe --out $(BENCH)/probe.json
	$(BIN)/python -m benchmarks.embed --out $(BENCH)/embed.json
	$(BIN)/python -m benchmarks.prepare --clips 160 --out $(BENCH)/prepare.json
	$(BIN)/python -m benchmarks.tar --members 50000 --out $(BENCH)/tar.json

# Runs in PYTHON's own environment: a GPU machine may have torch installed and no network.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check --out runs/gpu-check

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	git ls-files '*.py' '*.md' '*.yaml' '*.yml' '*.toml' '*.ipynb' | xargs $(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages are copied with the repository's layout, so that links between files work.
docs: .venv/installed
	rm -rf build/docs
	mkdir -p build/docs
	git ls-files -z -- . ':!tests' | tar --null -cf - -T - | tar -xf - -C build/docs
	$(BIN)/mkdocs build --strict --quiet
	@echo build/site/index.html

# Builds from the files that git tracks; needs git, and a package index for the clean environment.
release-check:
	.ci/release-check $(PYTHON)

clean:
	rm -rf .venv build dist *.egg-info
