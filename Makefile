# Builds, tests and shows rgrid_heartbeat. `make` alone lists the targets.
#
# Servers are always throw-away ones in directories of their own; the system's cluster is never touched. As root
# they run as user postgres, otherwise as the user that calls make.

PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config) pg_config)
CARGO_PGRX_VERSION := 0.18.1
# Debian's Python, the one that its psycopg package is for.
PYTHON ?= /usr/bin/python3

PG_MAJOR = $(shell $(PG_CONFIG) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
FEATURES = --no-default-features --features pg$(PG_MAJOR)
export PGRX_HOME = $(CURDIR)/target/pgrx-$(PG_MAJOR)
export PGRX_PG_CONFIG_PATH = $(shell command -v $(PG_CONFIG))
export PG_CONFIG
export OLD_PG_CONFIG

AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help deps build install package demo test test-unit test-backend test-regress test-readme test-server \
	test-stress test-upgrade matrix torture miri check bench bench-quick archive clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

deps: ## install what is missing: PostgreSQL with headers, cargo-pgrx, linters, Prometheus
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

lint-sql: deps ## search the extension's SQL script for names that another role could shadow
	$(MAKE) do-package do-lint-sql

lint-packaging: deps ## check the Dockerfile and the compose file
	$(MAKE) do-lint-packaging

lint-monitoring: deps ## check the rules for Prometheus, and try them on made-up numbers
	$(MAKE) do-lint-monitoring

deb: deps ## build the Debian package into target/deb, and check it with lintian
	$(MAKE) do-package do-deb

test-deb: deps ## install the Debian package into a clean Debian, and see a worker die there
	$(MAKE) do-package do-deb do-test-deb

demo: install ## start a throw-away server with three real workers, kill one, and watch
	scripts/as-server-user examples $(PYTHON) demo.py --bindir $$($(PG_CONFIG) --bindir)

test: deps ## all tests
	scripts/run-all test-unit test-backend do-install test-regress test-readme test-server

STRESS_ROUNDS ?= 20

test-stress: install ## the tests on whole servers STRESS_ROUNDS (20) times, beside a load on every core
	scripts/stress $(STRESS_ROUNDS) $(MAKE) --no-print-directory test-server

matrix: deps ## the tests on PostgreSQL 16 and 18, which are fetched, and pg_upgrade to them
	$(MAKE) do-install
	scripts/matrix $(PGRX_PG_CONFIG_PATH)

check: deps ## everything that CI runs: format, lints, tests on all versions, benchmarks at small sizes, the package
	cargo fmt --check
	$(MAKE) do-lint
	$(MAKE) test
	$(MAKE) matrix
	$(MAKE) do-bench-quick
	$(MAKE) do-lint-sql do-lint-packaging do-lint-monitoring do-deb do-test-deb

torture: install ## kill, pause and restart workers and servers for TORTURE_SECONDS (180), then chaos for CHAOS_SECONDS (120)
	TORTURE_SECONDS=$${TORTURE_SECONDS:-180} CHAOS_SECONDS=$${CHAOS_SECONDS:-120} cargo test $(FEATURES) --test torture

miri: ## the table of heartbeats under Miri; needs a nightly compiler with it, and takes minutes
	scripts/miri

bench: install ## measure, and write bench/RESULTS.md and its charts; an hour and 20 GB
	scripts/bench $$($(PG_CONFIG) --bindir)

bench-quick: install ## the same at sizes that take two minutes, for correctness, not for times
	$(MAKE) do-bench-quick

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

archive: package ## at a release: keep this version's SQL, which is not edited any more
	scripts/archive $(VERSION) $(STAGE)$$($(PG_CONFIG) --sharedir)/extension/rgrid_heartbeat--$(VERSION).sql

clean: ## remove what was built
	cargo clean
	rm -rf tests/pg_regress/results

# What follows expects the dependencies to be there.
.PHONY: do-build do-install do-package do-lint do-bench-quick do-matrix do-matrix-servers

do-build: $(PGRX_HOME)/config.toml
	cargo build --release $(FEATURES)

# `install` replaces a file instead of writing into it, so that a running server keeps the library it has loaded.
do-install: do-package
	@cd $(STAGE) && find . -type f | while read -r file; do \
		$(AS_ROOT) install -D -m $$(case $$file in *.so) echo 755;; *) echo 644;; esac) "$$file" "/$$file" || exit 1; \
	done
	@echo "installed into $$($(PG_CONFIG) --pkglibdir) and $$($(PG_CONFIG) --sharedir)/extension"

# The library of `make install` is an optimised one. With `dev` it is built as its tests are, which saves compiling
# what it depends on a second time.
PROFILE ?= release
STAGE = $(CURDIR)/target/$(PROFILE)/rgrid_heartbeat-pg$(PG_MAJOR)

do-package: $(PGRX_HOME)/config.toml
	rm -rf $(STAGE)
	cargo pgrx package --profile $(PROFILE) --pg-config $(PGRX_PG_CONFIG_PATH) --out-dir $(STAGE) $(FEATURES)
	install -m 644 sql/archive/*.sql $(STAGE)$$($(PG_CONFIG) --sharedir)/extension

do-lint: $(PGRX_HOME)/config.toml
	cargo clippy --all-targets $(FEATURES) -- -D warnings

.PHONY: lint-sql lint-packaging lint-monitoring deb test-deb
.PHONY: do-lint-sql do-lint-packaging do-lint-monitoring do-deb do-test-deb

do-lint-sql: # the scripts of this version that do-package has laid out: to create it, and to update to it
	cd $(STAGE)$$($(PG_CONFIG) --sharedir)/extension && \
		$(CURDIR)/target/lint/bin/pgspot rgrid_heartbeat--$(VERSION).sql rgrid_heartbeat--*--$(VERSION).sql

do-lint-packaging:
	target/lint/bin/hadolint packaging/docker/Dockerfile
	target/lint/bin/python scripts/lint-compose packaging/docker/compose.yaml

# promtool reads the rules beside the tests of them.
do-lint-monitoring:
	cd examples/monitoring && $(CURDIR)/target/monitoring/usr/bin/promtool check rules alerts.yml
	cd examples/monitoring && $(CURDIR)/target/monitoring/usr/bin/promtool test rules alerts_test.yml

DEB = target/deb/postgresql-$(PG_MAJOR)-rgrid-heartbeat_*.deb
# Without DEBEMAIL the address comes from the checkout and may be no mailbox. Lintian may then say so, and nothing else.
LINTIAN = lintian --allow-root --fail-on error,warning \
	$(if $(DEBEMAIL),,--suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog)

do-deb:
	rm -f $(DEB)
	scripts/deb $(PG_MAJOR) $(STAGE) target/deb
	$(LINTIAN) $(DEB)

do-test-deb:
	$(AS_ROOT) scripts/in-clean-debian tests/deb/run $(DEB) packaging/docker/extension.sql -- ./run $(PG_MAJOR)

do-bench-quick:
	scripts/bench $$($(PG_CONFIG) --bindir) --quick

test-unit: $(PGRX_HOME)/config.toml # the rules that need no server
	cargo test --lib $(FEATURES) -- --skip pg_test

test-backend: $(PGRX_HOME)/config.toml # #[pg_test]: functions inside one backend; installs a library with them
	scripts/pgrx-test pg$(PG_MAJOR)

# PostgreSQL's own runner; one of another version will do.
PG_REGRESS ?= $(firstword $(wildcard $(shell $(PG_CONFIG) --pkglibdir)/pgxs/src/test/regress/pg_regress) \
	/usr/lib/postgresql/15/lib/pgxs/src/test/regress/pg_regress)

test-regress: # the SQL contract, by PostgreSQL's own pg_regress
	scripts/as-server-user tests/pg_regress ./run $$($(PG_CONFIG) --bindir) $(PG_REGRESS)

# The documents for users, each of which is run in a server of its own.
DOCUMENTS = README.md $(wildcard docs/*.md)

test-readme: # every statement that the documents show
	@failed=0; for document in $(DOCUMENTS); do \
		echo "$$document"; \
		scripts/as-server-user tests/readme ./run $$($(PG_CONFIG) --bindir) - <$$document || failed=1; \
	done; exit $$failed

# The server that these tests start. They are clients, so they can be built for another one.
SERVER ?= $(PG_CONFIG)
SERVER_MAJOR = $(shell $(SERVER) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
# Modules of tests/it to run, as `sweep` or `operators::health`, and `torture`, the other crate; all when empty.
SERVER_TESTS ?=
# These need packages of Debian's, which are for 15: pg_auto_failover, the exporter, postgres_fdw.
DEBIAN_TESTS = server_life::failover operators::monitoring jobs::foreign_tables
# Needs OLD_PG_CONFIG: `make test-upgrade`.
UPGRADE_TEST = release::pg_upgrade
SKIPPED = $(UPGRADE_TEST) $(SKIP) $(if $(filter-out 15,$(SERVER_MAJOR)),$(DEBIAN_TESTS))
# Most tests wait for servers most of the time.
TEST_THREADS ?= $(shell expr 2 '*' $$(nproc))
MODULES = $(filter-out torture,$(SERVER_TESTS))
CRATES = $(if $(SERVER_TESTS),$(if $(MODULES),it) $(filter torture,$(SERVER_TESTS)),it torture)

test-server: # whole servers: processes, crashes, rights
	@for module in $(subst ::,/,$(MODULES:%=tests/it/%)); do \
		[ -e $$module.rs ] || [ -e $$module/mod.rs ] || { echo "there is no module $$module" >&2; exit 2; }; \
	done
	PG_CONFIG=$(SERVER) cargo test $(FEATURES) --no-fail-fast $(CRATES:%=--test %) -- \
		--test-threads=$(TEST_THREADS) $(SKIPPED:%=--skip %::) $(MODULES:%=%::)

test-upgrade: # pg_upgrade from the server of OLD_PG_CONFIG to SERVER; both have the extension
	PG_CONFIG=$(SERVER) cargo test $(FEATURES) --test it -- $(UPGRADE_TEST)::

# PostgreSQL 15 has all tests in `make test`: what needs no server is not repeated, nor are the clients built again.
SERVERLESS_TESTS = sweep::protocol release::metadata release::archived_scripts release::layers \
	server_life::torture_checker server_life::torture_plan

do-matrix:
	scripts/run-all test-backend do-install test-regress test-readme do-matrix-servers

do-matrix-servers:
	$(MAKE) -k PG_CONFIG=$(OLD_PG_CONFIG) SERVER=$(PG_CONFIG) SKIP="$(SERVERLESS_TESTS)" test-server test-upgrade
