# Builds, tests and shows rgrid_heartbeat. `make` alone lists the targets.
#
# Servers are always throw-away ones in directories of their own; the system's cluster is never touched. As root
# they run as user postgres, otherwise as the user who calls make.

PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config) pg_config)
CARGO_PGRX_VERSION := 0.18.1
# Debian's Python, the one that its psycopg package is for.
PYTHON ?= /usr/bin/python3

PG_MAJOR = $(shell $(PG_CONFIG) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
FEATURES = --no-default-features --features pg$(PG_MAJOR)
export PGRX_HOME = $(CURDIR)/target/pgrx-$(PG_MAJOR)
export PGRX_PG_CONFIG_PATH = $(shell command -v $(PG_CONFIG))
export PG_CONFIG

AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help deps build install package demo test test-unit test-backend test-regress test-readme test-server check \
	miri bench bench-quick clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

deps: ## install what is missing: PostgreSQL with headers, libclang, sudo, psycopg, cargo-pgrx
	@scripts/install-deps $(CARGO_PGRX_VERSION)

$(PGRX_HOME)/config.toml:
	@mkdir -p $(PGRX_HOME)
	cargo pgrx init --pg$(PG_MAJOR) $(PGRX_PG_CONFIG_PATH)

build: deps ## compile the library
	$(MAKE) do-build

install: deps ## build and install into the PostgreSQL of PG_CONFIG
	$(MAKE) do-install

package: deps ## build, and lay out the files to install under target/release
	$(MAKE) do-package

demo: install ## start a throw-away server with three real workers, kill one, and watch
	scripts/as-server-user examples $(PYTHON) demo.py --bindir $$($(PG_CONFIG) --bindir)

test: deps ## all tests
	$(MAKE) test-unit test-backend do-install test-regress test-readme test-server

check: deps ## everything that CI runs: format, lints, tests, the benchmarks at small sizes
	cargo fmt --check
	$(MAKE) do-lint
	$(MAKE) test
	$(MAKE) do-bench-quick

miri: ## the table of heartbeats under Miri; needs a nightly compiler with it, and takes minutes
	scripts/miri

bench: install ## measure, and write bench/RESULTS.md and its chart; an hour and 20 GB
	scripts/bench $$($(PG_CONFIG) --bindir)

bench-quick: install ## the same at sizes that take two minutes, for correctness, not for times
	$(MAKE) do-bench-quick

clean: ## remove what was built
	cargo clean
	rm -rf tests/pg_regress/results

# What follows expects the dependencies to be there.
.PHONY: do-build do-install do-package do-lint do-bench-quick

do-build: $(PGRX_HOME)/config.toml
	cargo build --release $(FEATURES)

# `install` replaces a file instead of writing into it, so that a running server keeps the library it has loaded.
do-install: do-package
	@cd $(STAGE) && find . -type f | while read -r file; do \
		$(AS_ROOT) install -D -m $$(case $$file in *.so) echo 755;; *) echo 644;; esac) "$$file" "/$$file" || exit 1; \
	done
	@echo "installed into $$($(PG_CONFIG) --pkglibdir) and $$($(PG_CONFIG) --sharedir)/extension"

STAGE = target/release/rgrid_heartbeat-pg$(PG_MAJOR)

do-package: $(PGRX_HOME)/config.toml
	rm -rf $(STAGE)
	cargo pgrx package --pg-config $(PGRX_PG_CONFIG_PATH) $(FEATURES)

do-lint: $(PGRX_HOME)/config.toml
	cargo clippy --all-targets $(FEATURES) -- -D warnings

do-bench-quick:
	scripts/bench $$($(PG_CONFIG) --bindir) --quick

test-unit: $(PGRX_HOME)/config.toml # the rules that need no server
	cargo test --lib $(FEATURES) -- --skip pg_test

test-backend: $(PGRX_HOME)/config.toml # #[pg_test]: functions inside one backend
	scripts/pgrx-test pg$(PG_MAJOR)

# PostgreSQL's own runner; one of another version will do.
PG_REGRESS ?= $(firstword $(wildcard $(shell $(PG_CONFIG) --pkglibdir)/pgxs/src/test/regress/pg_regress) \
	/usr/lib/postgresql/15/lib/pgxs/src/test/regress/pg_regress)

test-regress: # the SQL contract, by PostgreSQL's own pg_regress
	scripts/as-server-user tests/pg_regress ./run $$($(PG_CONFIG) --bindir) $(PG_REGRESS)

test-readme: # every statement that the README shows
	scripts/as-server-user tests/readme ./run $$($(PG_CONFIG) --bindir) - <README.md

test-server: # whole servers: processes, crashes, rights
	cargo test $(FEATURES) $(foreach file,$(wildcard tests/*.rs),--test $(basename $(notdir $(file))))
