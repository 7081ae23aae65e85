# The whole developer interface. Every target sets up what it needs, and is quick the second time.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup serve postgres chromium debian clients check test lint ruff ruff-format mypy format docs site site-serve vendor screenshot release lock clean
.PHONY: bench bench-failover bench-affinity bench-client bench-second-turn bench-long-prompts bench-first-minutes bench-page bench-agreement bench-workers bench-observability bench-cluster bench-cluster-failures bench-comparison soak

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-22s %s\n", $$1, $$2}'
	@echo 'make test T="…"      only those tests, with any options of pytest:'
	@echo '                     make test T=tests/store, make test T="tests/http -k drain -x",'
	@echo '                     make test T="-m postgres" (or real, slow, browser, integration)'

$(VENV)/serve.stamp: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@echo "The command is $(BIN)/reverie. To have it on your PATH: pipx install $(CURDIR)"
	@touch $@

$(VENV)/dev.stamp: $(VENV)/serve.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/dev.stamp ## everything that developing needs, in .venv

serve: $(VENV)/serve.stamp ## serve the default model on 127.0.0.1:8000, or at PORT=…
	@exec $(BIN)/reverie serve $(if $(PORT),--port $(PORT))

lint: ruff ruff-format mypy ## ruff and mypy

ruff: setup
	$(BIN)/ruff check .

ruff-format: setup
	$(BIN)/ruff format --check .

mypy: setup
	$(BIN)/mypy

format: setup ## let ruff format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## write the parts of the documentation that come from the code
	$(BIN)/python docs/generate.py

site: setup ## the documentation as a site, in dist/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

site-serve: setup ## show that site on 127.0.0.1:8001, and build it anew while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --livereload --dev-addr 127.0.0.1:8001

vendor: ## fetch the page's libraries again, as their lock file lists them
	$(PYTHON) scripts/vendor.py

chromium: ## the browser that the tests drive
	@tests/install-chromium.sh

screenshot: setup chromium ## take the README's picture of the page anew
	$(BIN)/reverie pull smollm2-135m
	REVERIE_SCREENSHOT=1 $(BIN)/pytest tests/browser/test_screenshot.py

postgres: ## the PostgreSQL that the tests start
	@tests/install-postgres.sh

debian: ## the programs of Debian that the tests start: proxies, Prometheus, builders of images
	@tests/install-debian.sh nginx=nginx-light caddy=caddy promtool=prometheus \
		systemd-analyze=systemd buildah=buildah mmdebstrap=mmdebstrap runc=runc \
		docker-compose=docker-compose curl=curl git=git

clients: setup ## the client libraries that the tests run, for Python and for JavaScript
	@PYTHON=$(BIN)/python tests/install-clients.sh
	@tests/install-npm.sh

check: lint ## lint, types, and the tests that start no server: less than a minute
	$(BIN)/pytest -n 2 --dist loadfile -m "not integration and not slow"

# T: arguments of pytest, for a run of some tests alone.
# What the tests start compiles the program once, whatever the environment says.
test: export PYTHONDONTWRITEBYTECODE =
test: $(if $(T),setup,lint) postgres chromium debian clients ## lint, types, and every test
	$(BIN)/reverie pull smollm2-135m
	$(BIN)/pytest $(or $(T),-n 2 --dist loadfile)

# B: arguments of bench/run.py.
bench: setup ## measure what it costs beside others: B="--scenario a,b --quick"
	$(BIN)/python bench/run.py $(B)

bench-failover: setup ## measure how long an answer pauses when its engine is killed
	$(BIN)/python bench/failover.py

bench-affinity: setup ## measure what sending chats where they are warm spares
	$(BIN)/python bench/affinity.py

bench-client: setup ## measure what the client towards engines costs
	$(BIN)/python bench/client.py

bench-second-turn: setup ## measure what the second turn of a coding agent waits
	$(BIN)/python bench/second_turn.py

bench-long-prompts: setup ## measure what long prompts do to other requests
	$(BIN)/python bench/long_prompts.py

bench-first-minutes: setup ## measure the seconds from git clone to the first answer
	$(BIN)/python bench/first_minutes.py

bench-page: setup ## measure what the page weighs, waits and costs the server
	$(BIN)/python bench/page.py

bench-agreement: setup ## measure whether reverie bench and aiperf agree
	$(BIN)/python bench/agreement.py $(B)

bench-workers: setup ## measure what a second worker gains
	$(BIN)/python bench/workers.py

bench-observability: setup ## measure what metrics and traces cost
	$(BIN)/python bench/observability.py $(B)

bench-cluster: setup ## simulate the scheduler with hundreds of engines: B="--quick"
	$(BIN)/python bench/cluster_simulation.py $(B)

bench-cluster-failures: setup ## measure what a cluster's failures cost, and the cluster itself
	$(BIN)/python bench/cluster_failures.py $(B)

bench-comparison: setup ## ask Reverie and LiteLLM what becomes of bad moments
	$(BIN)/python bench/comparison.py

# S: arguments of bench/soak.py.
soak: setup postgres ## soak two gateways for an hour, and do the accounts: HOURS=24, S="--minutes 5"
	$(BIN)/python bench/soak.py $(if $(HOURS),--hours $(HOURS)) $(S)

release: setup ## build what is published, with hashes and a bill of materials, into dist/
	$(BIN)/python scripts/release.py dist

lock: ## choose the newest versions again and write them to constraints.txt
	rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools > constraints.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
