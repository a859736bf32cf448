# The one door. `make demo` and `make test` install what they need and nothing outside this folder.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
LITELLM_VERSION := 1.106.2
PYTHON ?= python3
UV := .tooling/bin/uv
RUN := .venv/bin/python

export UV_PYTHON_DOWNLOADS := never
# The certificates that this machine trusts, as pip does: a company's own package index works too.
export UV_SYSTEM_CERTS := 1
export PYTHONDONTWRITEBYTECODE := 1
# ONNX Runtime reports home unless it is told not to before it is imported, by anyone.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help
help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

# uv is installed beside the project, by pip, pinned. Where the system's python3 has no ensurepip
# (Debian without python3-venv), pip installs it into a folder instead of a virtual environment.
$(UV):
	@echo "installing uv $(UV_VERSION)"
	@if $(PYTHON) -m venv .tooling >/dev/null 2>&1; then \
	  .tooling/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"; \
	else \
	  rm -rf .tooling; \
	  $(PYTHON) -m pip install --quiet --disable-pip-version-check --target .tooling "uv==$(UV_VERSION)" \
	    || { echo "make: error: $(PYTHON) has neither venv nor pip: install python3-venv or python3-pip" >&2; exit 1; }; \
	fi

.venv/.demo: $(UV) pyproject.toml uv.lock
	@$(UV) sync --frozen --inexact --python "$(PYTHON)" --extra all --group demo
	@touch $@

.venv/.transaction: $(UV) pyproject.toml uv.lock
	@$(UV) sync --frozen --inexact --python "$(PYTHON)" --extra all --group transaction
	@touch $@

.venv/.test: $(UV) pyproject.toml uv.lock
	@$(UV) sync --frozen --inexact --python "$(PYTHON)" --extra all --group demo --group dev
	@touch .venv/.demo .venv/.transaction $@

.PHONY: install
install: .venv/.test  ## Install the package with everything needed to work on it

.PHONY: demo-network
demo-network: .venv/.demo  ## One operator and three nodes that it does not control; four ways to cheat
	@$(RUN) examples/network.py

.PHONY: demo-transaction
demo-transaction: .venv/.transaction  ## Mixed evidence in one transaction; then each part sabotaged
	@$(RUN) examples/transaction.py

.PHONY: demo
demo: .venv/.demo  ## Ask two real models, verify both receipts offline, show a refusal
	@$(RUN) examples/demo.py

.PHONY: lint
lint: .venv/.test  ## Format, lint, types, direction of imports
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

.PHONY: format
format: .venv/.test  ## Rewrite the code in the house format
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

# A software TPM and its tools, for the tests that make real TPM quotes, Go with its own transparency
# log, which checks ours, and PostgreSQL, which the log's tests start themselves. Where they cannot be installed those tests are skipped and
# say so; where CI is set they fail.
SYSTEM_PACKAGES := swtpm swtpm-tools tpm2-tools golang-go golang-golang-x-mod-dev postgresql

.PHONY: system-packages
system-packages:  ## Install the Debian packages that tests use, where this user may
	@{ [ "$$(command -v swtpm swtpm_setup tpm2_quote go | wc -l)" = 4 ] \
	  && [ -d /usr/share/gocode/src/golang.org/x/mod/sumdb/tlog ] \
	  && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; } \
	  || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing $(SYSTEM_PACKAGES)"; \
	    apt-get update -qq >/dev/null \
	      && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SYSTEM_PACKAGES) >/dev/null \
	      || echo "make: warning: could not install $(SYSTEM_PACKAGES): tests that need them are skipped" >&2; \
	  else \
	    echo "make: warning: install $(SYSTEM_PACKAGES): tests that need them are skipped" >&2; \
	  fi

.PHONY: test
test: lint system-packages  ## Everything that must hold: lint, types and all tests
	@$(RUN) -m pytest -n 2 --dist worksteal

.PHONY: vectors
vectors: .venv/.test  ## Rebuild the published test vectors and show what changed
	@$(RUN) vectors/generate.py
	@git --no-pager diff --stat -- vectors

.PHONY: bench-ledger
bench-ledger: .venv/.test  ## Ingest, time to checkpoint, a large log, and the cost of an anchor
	@$(RUN) bench/ledger.py
	@$(RUN) bench/anchor.py

.PHONY: bench-receipt
bench-receipt: .venv/.test  ## Receipt size, minting and verifying
	@$(RUN) bench/receipt.py

.PHONY: bench-policy
bench-policy: .venv/.test  ## Evaluating a policy on the evidence of one receipt
	@$(RUN) bench/policy.py

.PHONY: bench-audit
bench-audit: .venv/.test  ## Substituted models found by audits of one per cent, on real answers
	@$(RUN) bench/audit.py

.PHONY: bench-proof
bench-proof: .venv/.test  ## Time, size and memory of proofs of seven models
	@$(RUN) bench/proof.py

.PHONY: bench-coverage
bench-coverage: .venv/.test  ## Coverage counted over ten million receipts
	@$(RUN) bench/log_coverage.py

.PHONY: bench-tlog
bench-tlog: .venv/.test  ## Hashing, leaves and proofs of the log, without a disk
	@$(RUN) bench/tlog.py

.PHONY: bench-gateway
bench-gateway: .venv/.test  ## CPU, latency and throughput of the gateway
	@$(RUN) bench/gateway.py

# LiteLLM is a peer to measure, not a part of this project: an environment of its own.
.PHONY: bench-litellm
bench-litellm: $(UV) .venv/.test  ## As bench-gateway, with LiteLLM's proxy beside it
	@test -x .venv-litellm/bin/litellm || { $(UV) venv --quiet --python "$(PYTHON)" .venv-litellm \
	  && $(UV) pip install --quiet --python .venv-litellm/bin/python "litellm[proxy]==$(LITELLM_VERSION)"; }
	@$(RUN) bench/gateway.py

.PHONY: bench-transaction
bench-transaction: .venv/.test  ## What a transaction of 100 inferences adds to its parts
	@$(RUN) bench/transaction.py

.PHONY: bench-evidence
bench-evidence: .venv/.test  ## Appraisals of attestation evidence per second, on genuine documents
	@for bench in bench/evidence_*.py; do $(RUN) $$bench; done

.PHONY: clean
clean:  ## Remove what the targets installed and made
	rm -rf .venv .venv-litellm .tooling .demo .models dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
