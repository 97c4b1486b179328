# Two commands do all the set-up: `make demo` runs the shop, `make test` proves it.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test servers bench compare mutate campaign docs proto clean venv dev

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: venv ## Run the shop for 20 seconds and check its books (ARGS="--together --seconds 5")
	@.venv/bin/msgov demo $(ARGS)

test: dev ## Lint, types, floors and all tests, on every Python of 3.11 to 3.13 that is installed
	@scripts/test $(ARGS)

servers: dev ## Get the real servers that the tests use
	@.venv/bin/python -m tests.servers fetch

bench: ## Measure what governance costs, beside its peers
	@scripts/setup .venv-bench all bench
	@.venv-bench/bin/python -m benchmarks $(ARGS)

compare: ## Put every Python breaker that installs to our conformance battery
	@scripts/setup .venv-compare all
	@.venv-compare/bin/python -m benchmarks.compare --install $(ARGS)

mutate: dev ## Break the machines one step at a time, and see that their tests notice
	@.venv/bin/python -m benchmarks.mutate $(ARGS)

campaign: dev ## The long runs: every property twenty times as far, the shop for minutes in each of its forms
	@.venv/bin/python -m pytest -q --campaign --timeout 1800 -m "not server and not docs" tests
	@for how in "" "--together" "--scenario payment-slow"; do \
	  .venv/bin/msgov demo --seconds 120 $$how || exit 1; \
	done

docs: dev ## Build the documentation
	@scripts/setup .venv all docs
	@.venv/bin/sphinx-build -W -q -b html docs docs/_build/html && echo docs/_build/html/index.html

proto: ## Make the shop's stubs again, with the old compiler
	@"$$(scripts/python)" examples/shop/proto/generate.py

venv:
	@scripts/setup .venv demo

dev:
	@scripts/setup .venv all dev

clean: ## Remove what was made here
	@rm -rf .venv .venv-* .test-*.log dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
