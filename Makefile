# Everything that is done more than once. `make` alone lists it.
# Each target works on its own: it makes .venv first when that is missing or older than the lock, and the engine's
# compiled operations when they are missing or older than their sources.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
PYTEST_ARGS ?= -n 2 --dist loadgroup --durations=25 --durations-min=5

BIN := .venv/bin
INSTALLED := .venv/.ready
NATIVE := worker/engine/native
READY := $(NATIVE)/operations-made

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test long exact chart chaos dashboards dashboard-picture evidence test-images test-kubernetes mutants lint format typecheck lock docs bench-calls bench-checkpoints bench-commits bench-copies bench-depthwise bench-encoder bench-engine bench-linear bench-overload bench-producer bench-recorded bench-recovery bench-service bench-step bench-wire clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## make the environment .venv from requirements.lock, and compile the engine's own operations

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@echo "Installing into .venv: some minutes, 7 GB on disk (PyTorch with CUDA is most of it)."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

# Without a compiler all goes on, slower, and it is tried again the next time. As old as its beginning: a source that
# is changed meanwhile is newer.
$(READY): $(INSTALLED) $(wildcard $(NATIVE)/*.cpp $(NATIVE)/*.h $(NATIVE)/*.py)
	@echo "Compiling the operations of the engine: half a minute."
	@touch $@.begun
	@if $(BIN)/python -m worker.engine.native; then touch -r $@.begun $@; fi

demo: $(READY) ## Kafka, a worker and ten live calls on this machine: watch the transcripts grow
	$(BIN)/python -m demo

test: lint typecheck ## lint, types and all tests (some 25 minutes on two cores); PYTEST_ARGS for a part
	$(BIN)/python -m pytest $(PYTEST_ARGS)

long: $(READY) ## a call of four hours, an hour of silence, 10,000 calls: a quarter of an hour, with memory curves
	TRUNKLINE_TESTS_LONG=1 $(BIN)/python -m pytest tests/integration/test_long.py -s

CASES ?= 5000
SEED ?= $(shell date +%s)
exact: $(READY) ## random models and sessions against NeMo offline: CASES=5000, SEED= to draw the same again
	TRUNKLINE_TESTS_CASES=$(CASES) TRUNKLINE_TESTS_SEED=$(SEED) \
		$(BIN)/python -m pytest tests/engine/test_random_models.py --timeout=0 $(PYTEST_ARGS)

dashboards: $(READY) ## the chart's Grafana dashboards again from deploy/dashboards
	$(BIN)/python -m deploy.dashboards

dashboard-picture: $(READY) ## docs/dashboard.png: a real Prometheus watches a worker through an overload (4 minutes)
	$(BIN)/python -m bench.dashboard

chaos: $(READY) ## kills, rebalances, brokers and Redis away, for MINUTES=3 and KILLS=0 at least; SEED=, STORE=device|redis
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),3) --kills $(or $(KILLS),0) --seed $(SEED) \
		--store $(or $(STORE),redis)

mutants: $(READY) ## deliberate faults, one at a time: the tests must catch each; MUTANTS= names some
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

chart: $(READY) ## the chart's schema of settings and its README's table again
	$(BIN)/python -m deploy.chart

docs: $(READY) ## the reference of settings, docs/settings.md, again from the settings model
	$(BIN)/python -m worker.settings_page > docs/settings.md

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY) ## mypy
	$(BIN)/mypy

KUBERNETES ?= $(HOME)/.cache/trunkline/kubernetes
test-kubernetes: $(READY) ## the chart on a real control plane, built with Go into KUBERNETES= first (ten minutes, once); KEDA=1
	KEDA=$(KEDA) tests/kubernetes/build.sh $(KUBERNETES)
	TRUNKLINE_TESTS_KUBERNETES=$(KUBERNETES) $(BIN)/python -m pytest tests/kubernetes --timeout=600

test-images: $(READY) ## the images' build steps in clean folders, without Docker (7 GB of packages)
	TRUNKLINE_TESTS_IMAGES=1 $(BIN)/python -m pytest tests/helm/test_images.py --timeout=0 -s

COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --quiet
LOCKS := requirements.lock deploy/worker.lock deploy/producer.lock

lock: $(READY) ## the locks again from pyproject.toml; LOCK_ARGS=--upgrade for newer versions
	$(COMPILE) --all-extras $(LOCK_ARGS) --output-file requirements.lock
	$(COMPILE) --extra worker --constraints requirements.lock --output-file deploy/worker.lock
	$(COMPILE) --constraints requirements.lock --output-file deploy/producer.lock
	@! grep -nE '^-|://' $(LOCKS) || { echo "a lock names a host or an option" >&2; exit 1; }

bench-calls: $(READY) ## how many real-time calls this machine carries
	$(BIN)/python -m bench.realtime_calls

bench-commits: $(READY) ## what committing costs at 1, 10 and 48 partitions, with and without transactions
	$(BIN)/python -m bench.commits

bench-checkpoints: $(READY) ## what a checkpoint weighs, and what taking one costs a step
	$(BIN)/python -m bench.checkpoints

bench-recorded: $(READY) ## the encoder's step with its passes recorded, and from Python
	$(BIN)/python -m bench.recorded

bench-recovery: $(READY) ## how long a call stands still when its worker is killed, with each state store
	$(BIN)/python -m bench.recovery

bench-copies: $(READY) ## what the fast engine's copies of state cost
	$(BIN)/python -m bench.engine_copies

bench-depthwise: $(READY) ## the depthwise convolution of a step, against oneDNN's
	$(BIN)/python -m bench.depthwise

bench-encoder: $(READY) ## the encoder's step: NeMo's, the reference engine's and the fast one's, against the floor
	$(BIN)/python -m bench.encoder

bench-engine: $(READY) ## audio seconds per second of whole engines: ours, NeMo's pipelines, sherpa-onnx
	$(BIN)/python -m bench.engine_throughput

bench-linear: $(READY) ## linear maps of 1 to 128 rows: our product against PyTorch's
	$(BIN)/python -m bench.linear

bench-overload: $(READY) ## twice what the engine takes for MINUTES=2, then nothing: lag over time, words lost
	$(BIN)/python -m bench.overload --minutes $(or $(MINUTES),2)

bench-producer: $(READY) ## what a real-time stream costs a producer, and how many one process feeds
	$(BIN)/python -m bench.producer_cost

bench-service: $(READY) ## the service as a whole: speed, calls held, delays, host cost, memory; ONLY= for a part, a quarter of an hour
	$(BIN)/python -m bench.service --plot docs/delay.svg $(if $(ONLY),--only $(ONLY))

bench-step: $(READY) ## a step of the fast engine against the reference engine's
	$(BIN)/python -m bench.engine_step

bench-wire: $(READY) ## what decoding one record costs
	$(BIN)/python -m bench.wire_decode

EVERY ?= 3
evidence: $(READY) ## what the cache fault and its fix are worth in words: tables and a plot for docs/; 14 minutes; EVERY=1 for all utterances
	$(BIN)/python -m bench.evidence --every $(EVERY) --write docs

clean: ## delete .venv and all caches of tools
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis $(NATIVE)/operations-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
