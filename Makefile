.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# uv installs in seconds; without it, venv and pip do the same.
UV := $(shell command -v uv 2>/dev/null)
JOBS ?= 6
# As 0.2: the documentation of a minor version is one site.
VERSION = $(shell sed -n 's/^__version__ = "\([0-9]*\.[0-9]*\).*/\1/p' flowmate_async/__init__.py)
# Subprocesses of the tests start in half the time with compiled modules.
unexport PYTHONDONTWRITEBYTECODE
# $(call tests,pytest): whole files in parallel, since some have servers of their own. Many tests wait, so more
# processes than two cores are best. The tests marked "alone" (all of them long ones) run afterwards by themselves.
parallel = -n $(JOBS) --dist loadfile --no-loadscope-reorder
tests = $(1) $(if $(filter-out 1,$(JOBS)),$(parallel))
all-tests = $(if $(filter-out 1,$(JOBS)),$(1) $(long) $(parallel) -m "not alone" && $(1) $(long) -m alone,$(1) $(long) -m "")
long = --hypothesis-profile=long

.PHONY: help setup demo test test-all test-package chaos cluster fuzz-transport mutants bench bench-table bench-smoke bench-flow check check-all lint format types clean cookbook docs docs-release map dist lock test-lowest test-python

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

setup: .venv/installed  ## create .venv with everything that developing needs

.venv/installed: pyproject.toml
ifdef UV
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip install --quiet --python $(BIN)/python --editable . --group dev
else
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
endif
	@touch $@

demo: .venv/installed  ## sync 1,000 users of a local twin into a sealed store, interrupt, resume, verify
	$(BIN)/flowmate demo

test: .venv/installed  ## run the tests in six processes (JOBS=1: in one)
	$(call tests,$(BIN)/pytest)

# The long versions wait less.
test-all: JOBS = 3
test-all: .venv/installed  ## run all tests, also the long versions, as continuous integration does
	$(call all-tests,$(BIN)/pytest)

test-package: .venv/installed  ## run the tests of one package: NAME=engine
	$(BIN)/pytest tests/$(NAME)

chaos: .venv/installed  ## 2,000 seeded runs with every fault at once, each judged by every promise (RUNS=n for others)
	$(BIN)/python -m tests.reliability.chaos --runs $(or $(RUNS),2000)

cluster: .venv/installed  ## 5,000 users by three Celery workers; one of them and Redis are killed (needs redis-server)
	FLOWMATE_CLUSTER_USERS=5000 FLOWMATE_CLUSTER_RATE=500 $(BIN)/pytest -m "" -k "not False" tests/distributed/test_cluster.py

fuzz-transport: .venv/installed  ## put 100,000 answers, whole and mutated, before both transports
	FLOWMATE_FUZZ_CASES=50000 $(BIN)/pytest tests/transport/test_differential.py -k same_bytes

mutants: .venv/mutants  ## change the pure parts in thousands of ways, and list the changes that no test notices
	rm -rf mutants
	$(BIN)/mutmut run --max-children $(JOBS)
	$(BIN)/mutmut results

.venv/mutants: .venv/installed
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python --group mutants
else
	$(BIN)/python -m pip install --quiet --group mutants
endif
	@touch $@

bench: .venv-bench/installed .venv-bench-niquests/installed  ## measure everything, peers included, and renew the figures (PARTS="…" for some; nginx and wrk: from your system)
	.venv-bench/bin/python benchmarks/run.py $(PARTS)

bench-table:  ## renew the table and the plots from benchmarks/results
	$(PYTHON) benchmarks/report.py

bench-smoke: .venv/installed  ## under a minute: have the ratios that matter become worse?
	$(BIN)/python benchmarks/smoke.py

.venv-bench/installed: GROUP = bench
.venv-bench-niquests/installed: GROUP = bench-niquests

.venv-bench/installed .venv-bench-niquests/installed: pyproject.toml
ifdef UV
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@D)
	$(UV) pip install --quiet --python $(@D)/bin/python --editable '.[wire]' --group $(GROUP)
else
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(@D)/bin/python -m pip install --quiet --editable '.[wire]' --group $(GROUP)
endif
	@touch $@

bench-flow: .venv/installed  ## flow control against a strict limit: 50, 500 and 5,000 requests/s
	$(BIN)/python benchmarks/flow.py --transport wire

map: .venv/installed  ## draw the packages and their imports into CONTRIBUTING.md
	$(BIN)/python tools/import_map.py

cookbook: .venv/cookbook  ## install what the pages of the cookbook need; without it their tests skip

# arq asks for an older redis than the tests have, and works with both.
.venv/cookbook: .venv/installed
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python --group cookbook
	$(UV) pip install --quiet --python $(BIN)/python --no-deps arq
else
	$(BIN)/python -m pip install --quiet --group cookbook
	$(BIN)/python -m pip install --quiet --no-deps arq
endif
	@touch $@

docs: .venv/docs  ## build the site into build/site, strictly: a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs-release: .venv/docs  ## add the site of this version to the branch gh-pages, beside those of other versions
	$(BIN)/mike deploy --update-aliases $(VERSION) latest
	$(BIN)/mike set-default latest

.venv/docs: .venv/installed
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python --group docs
else
	$(BIN)/python -m pip install --quiet --group docs
endif
	@touch $@

dist: .venv-release/installed  ## build sdist and wheel into dist/, twice; look into both, use the wheel, list what it brings
	rm -rf dist
	.venv-release/bin/python -m build --no-isolation --outdir dist >/dev/null
	.venv-release/bin/twine check --strict dist/*
	.venv-release/bin/python tools/check_dist.py dist
	.venv-release/bin/python tools/reproducible.py dist
	.venv-release/bin/python tools/sbom.py dist

# The same tools on every machine: each is pinned by its hash.
.venv-release/installed: requirements/release.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --require-hashes --requirement $<
	@touch $@

lock:  ## pin the release tools anew in requirements/release.txt (needs uv)
	uv pip compile --quiet --upgrade --group release --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --output-file requirements/release.txt

test-python:  ## run the tests with another Python: PYTHON=python3.13
	$(PYTHON) -m venv .venv-python
	.venv-python/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-python/bin/python -m pip install --quiet --editable . --group test
	$(if $(TESTS),.venv-python/bin/pytest $(TESTS),$(call tests,.venv-python/bin/pytest))

# Not the differential test: which nonsense a parser refuses depends on the version of llhttp in aiohttp.
test-lowest:  ## run the tests with the lowest versions of dependencies that are promised to work
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade 'pip>=25.1' packaging
	.venv-lowest/bin/python tools/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable . --group test
	.venv-lowest/bin/pytest $(or $(TESTS),tests --ignore tests/transport/test_differential.py)

lint: .venv/installed  ## check style, and that imports point down
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-logo

format: .venv/installed  ## format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

types: .venv/installed  ## check types
	$(BIN)/mypy

check: lint types test bench-smoke  ## check style, types, tests and speed
	$(BIN)/ruff format --check

check-all: lint types test-all bench-smoke  ## all that continuous integration checks
	$(BIN)/ruff format --check

clean:  ## remove what was made here
	rm -rf .venv .venv-release .venv-bench .venv-bench-niquests build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis mutants
