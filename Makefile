# make demo   the whole job on synthesized sounds: pack, pretrain, listen, embed, probe, compare
# make bench  what every speed figure rests on
# make ablate-check   an ablation in small, on synthesized sounds: that the way is open, in a minute
# make gpu-check   what only a GPU can show, tests and rates, in four minutes
# make test   the test suite, without what is slow
# make test-all   all of it: processes and signals, kills, browser, notebooks, commands of the docs
# make lint   formatting, lint, spelling, types, layers
# make docs   the documentation as a site, in build/site
# make release-check   build, check, and a small job of the wheel in a clean environment
# Each sets up .venv when it is missing. PYTHON names the interpreter to make it with.

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

# Delete runs/demo to start it over; otherwise it goes on where it stopped.
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
	@echo "How to read it: random and logmel have learned nothing, so only what a row has above both was learned; a few minutes of training do not get there, an hour on 7 hours of real sound (builtin) does."
	@echo "scores: $(DEMO)/results/summary.md, .csv, .png   views: $(DEMO)/views.png   by ear: $(DEMO)/listen.html   model: $(DEMO)/trained/encoder.safetensors"

# Two variants, two seeds, 20 steps each: the scores say nothing, the files show what an ablation leaves.
ablate-check: .venv/installed
	test -d $(ABLATE)/sounds || $(BIN)/byola-rq synthesize $(ABLATE)/sounds --clips 40 --seed 0
	$(BIN)/python -m evaluate miniature $(ABLATE)/sets
	$(BIN)/python -m evaluate ablate ablations/check.yaml --data $(ABLATE)/sounds/clips \
	  --data-root $(ABLATE)/sets --tasks spcv2_12 --seeds 2 --jobs 2 --out $(ABLATE)/out

# One thread a process: the tensors are small, and more would mostly wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# First the whole job in small: what it finds, no other test need be read for.
test: .venv/installed
	$(PYTEST) tests/test_smoke.py
	$(PYTEST) -n 2 --dist loadfile -m "not slow" --ignore tests/test_smoke.py

test-slow: .venv/installed
	$(PYTEST) -n 2 --dist loadfile -m slow

test-all: test test-slow

# Each says on what it ran; the tables are also kept as JSON. Under 10 minutes on two cores.
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

# Of the Python that is named, as it is: a bare machine with torch for its GPU, and no network.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check --out runs/gpu-check

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	git ls-files '*.py' '*.md' '*.yaml' '*.yml' '*.toml' '*.ipynb' | xargs $(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

# Laid out as in the repository, so that links between files lead on.
docs: .venv/installed
	rm -rf build/docs
	mkdir -p build/docs
	git ls-files -z -- . ':!tests' | tar --null -cf - -T - | tar -xf - -C build/docs
	$(BIN)/mkdocs build --strict --quiet
	@echo build/site/README.html

# Of what git tracks; needs git, and a package index for what the clean environment installs.
release-check:
	.ci/release-check $(PYTHON)

clean:
	rm -rf .venv build dist *.egg-info
