# Builds, tests and shows rgrid_heartbeat. `make` alone lists the targets.
#
# Servers are always throw-away ones in directories of their own; the system's cluster is never touched. As root
# they run as user postgres, otherwise as the user that calls make.

# The PostgreSQL to build for: that of the caller's PG_CONFIG, or the one that scripts/pg-config finds. It finds none
# before the group `build` of what is needed is installed, and then finds one in the make that is called after it.
override PG_CONFIG := $(or $(shell PG_CONFIG='$(PG_CONFIG)' scripts/pg-config 2>/dev/null),$(PG_CONFIG))
$(if $(word 2,$(PG_CONFIG)),$(error the path in PG_CONFIG has a space in it: $(PG_CONFIG)))
# Debian's Python, the one that its psycopg package is for.
PYTHON ?= /usr/bin/python3

PG_MAJOR := $(if $(PG_CONFIG),$(shell $(PG_CONFIG) --version 2>/dev/null | sed 's/[^0-9]*\([0-9]*\).*/\1/'))
FEATURES = --no-default-features --features pg$(PG_MAJOR)
export PGRX_HOME = $(CURDIR)/target/pgrx-$(PG_MAJOR)
export PGRX_PG_CONFIG_PATH = $(PG_CONFIG)
export PG_CONFIG
export OLD_PG_CONFIG

# The stamps of groups of scripts/install-deps.
needs = $(addprefix target/deps/pg$(PG_MAJOR)/,$1)

AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

# This machine's release of Debian, and those that are tried.
OWN := $(shell . /etc/os-release && echo $$VERSION_CODENAME)
RELEASES = bookworm trixie forky

.DEFAULT_GOAL := help
.PHONY: help deps build install package demo test test-unit test-backend test-regress test-readme test-server \
	test-sql test-stress test-patroni test-queues test-upgrade matrix ci sql torture miri check bench bench-quick \
	archive release-check clean lints docs coverage deb test-deb test-container test-release test-contract test-story \
	matrix-fetched contract-fetched skip-fetched $(RELEASES:%=matrix-%) $(RELEASES:%=contract-%)
# Cargo is parallel by itself, and apt is not.
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

deps: $(call needs,test patroni queues fetched coverage sql lint docs package container) ## install all that any target needs

# Each group is installed when a target first needs it, and looked at again when what is needed may have changed.
target/deps/pg$(PG_MAJOR)/%: scripts/install-deps scripts/pg-config scripts/lint-requirements.txt Cargo.toml \
		clients/node/package-lock.json tests/queues/requirements.txt tests/queues/node/package-lock.json \
		tests/queues/apalis/Cargo.lock
	@scripts/install-deps $*
	@$(if $(PG_MAJOR),mkdir -p $(@D) && touch $@)

$(PGRX_HOME)/config.toml:
	@mkdir -p $(PGRX_HOME)
	cargo pgrx init --pg$(PG_MAJOR) $(PGRX_PG_CONFIG_PATH)

build: $(call needs,build) ## compile the library
	$(MAKE) do-build

install: $(call needs,build) ## build and install into the PostgreSQL of PG_CONFIG
	$(MAKE) do-install

package: $(call needs,build) ## build, and lay out the files to install under target/release
	$(MAKE) do-package

lints: $(call needs,lint) ## check the form and the types of all that is written here
	$(MAKE) do-lints

docs: $(call needs,docs) ## the documents as a site with search, target/docs/site
	scripts/docs

COVERAGE_TESTS ?= test-unit test-regress test-server

coverage: $(call needs,coverage) ## which lines the tests of COVERAGE_TESTS run: a report, target/coverage
	scripts/coverage $(COVERAGE_TESTS)

deb: $(call needs,package) ## build the Debian package into target/deb, and check it with lintian
	$(MAKE) do-package do-deb

test-deb: $(call needs,package) ## install the Debian package into a clean Debian, and see a worker die there
	$(MAKE) do-package do-deb do-test-deb

test-container: $(call needs,container) ## build the image, start the compose file with podman, see a worker die there
	$(MAKE) do-test-container

demo: $(call needs,demo) ## start a throw-away server with three real workers, kill one, and watch
	$(MAKE) do-install do-demo

test: $(call needs,test sql) ## all tests but those of test-patroni and test-queues
	scripts/run-all test-unit test-backend do-install test-sql test-regress test-readme test-server

STRESS_ROUNDS ?= 20

test-stress: $(call needs,test) ## the tests on whole servers STRESS_ROUNDS (20) times, beside a load on every core
	$(MAKE) do-install
	scripts/stress $(STRESS_ROUNDS) $(MAKE) --no-print-directory test-server

matrix: $(call needs,package) ## all tests and the package in clean Debians, each with its own PostgreSQL, and on 16
	$(MAKE) do-matrix

# The modules of the client for Node are this machine's: the checkout is read-only there.
$(RELEASES:%=matrix-%): matrix-%: $(call needs,package node)
	scripts/on-debian $* test-release
	$(MAKE) do-test-deb DEB_RELEASE=$* DEB='target/matrix/$*/target/deb/*.deb'

$(RELEASES:%=contract-%): contract-%: $(call needs,package)
	scripts/on-debian $* test-contract
	$(MAKE) do-test-deb DEB_RELEASE=$* DEB='target/matrix/$*/target/deb/*.deb'

matrix-fetched: $(call needs,test sql fetched) ## the tests on a PostgreSQL 16 that is fetched; pg_upgrade to it and to 18
	$(MAKE) do-install
	scripts/on-fetched 16 test-fetched 18 test-fetched-upgrade

contract-fetched: $(call needs,demo fetched)
	$(MAKE) do-install
	scripts/on-fetched 16 test-fetched-contract

# What is run in a clean Debian, where no cargo-pgrx is.
test-release: $(call needs,test package)
	$(MAKE) do-package do-deb
	scripts/run-all test-unit do-install test-regress test-readme test-server

test-contract: $(call needs,demo package)
	$(MAKE) do-package do-deb
	scripts/run-all do-install test-regress test-story

ci: $(call needs,test fetched sql lint package) ## for each change: all tests here, the contract on the other versions
	$(MAKE) do-lints
	$(MAKE) test
	$(MAKE) do-bench-quick do-deb do-test-deb
	$(MAKE) do-contracts

check: $(call needs,test patroni queues fetched sql lint package container) ## before a release: everything, on all versions
	$(MAKE) do-lints
	scripts/run-all test-unit test-backend test-sql
	$(MAKE) do-install do-bench-quick do-test-container test-patroni test-queues
	$(MAKE) do-matrix

torture: $(call needs,test) ## kill and pause workers and servers for TORTURE_SECONDS (180), then chaos for CHAOS_SECONDS (120)
	$(MAKE) do-install do-torture

miri: ## the table of heartbeats under Miri; needs a nightly compiler with it, and takes minutes
	scripts/miri

bench: $(call needs,demo) ## measure, and write bench/RESULTS.md and its charts; an hour and 20 GB
	$(MAKE) do-install do-bench

bench-quick: $(call needs,demo) ## the same at sizes that take four minutes, for correctness, not for times
	$(MAKE) do-install do-bench-quick

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

sql: $(call needs,sql) ## write the SQL script of this version into sql/: after each change of an SQL object
	$(MAKE) do-sql PROFILE=dev

release-check: $(call needs,sql) ## say what is missing for a release of the version in Cargo.toml
	@scripts/release-check

archive: sql ## after a release: keep this version's SQL, which is not edited any more
	scripts/archive $(VERSION)

clean: ## remove what was built
	$(AS_ROOT) rm -rf --one-file-system target/matrix target/container
	cargo clean
	rm -rf tests/pg_regress/results

# What follows expects the dependencies to be there.
.PHONY: do-build do-install do-package do-sql do-demo do-demo-picture do-torture do-bench do-bench-quick do-deb do-test-deb \
	do-test-container do-matrix do-contracts do-fetched-servers \
	do-lints do-lint do-lint-sql do-lint-packaging do-lint-monitoring do-lint-clients

# The library of `make install` is an optimised one. With `dev` it is built as its tests are, which saves compiling
# what it depends on a second time.
PROFILE ?= release
LIBRARY = target/$(patsubst dev,debug,$(PROFILE))/librgrid_heartbeat.so
STAGE = $(CURDIR)/target/$(PROFILE)/rgrid_heartbeat-pg$(PG_MAJOR)

do-build:
	@scripts/pg-config >/dev/null
	cargo build --lib --profile $(PROFILE) $(FEATURES)

# `install` replaces a file instead of writing into it, so that a running server keeps the library it has loaded.
do-install: do-package
	@cd $(STAGE) && find . -type f | while read -r file; do \
		$(AS_ROOT) install -D -m $$(case $$file in *.so) echo 755;; *) echo 644;; esac) "$$file" "/$$file" || exit 1; \
	done
	@echo "installed into $$($(PG_CONFIG) --pkglibdir) and $$($(PG_CONFIG) --sharedir)/extension"

# A released version's own script is the archived one.
do-package: do-build
	@rm -rf $(STAGE)
	@install -D -m 755 $(LIBRARY) $(STAGE)$$($(PG_CONFIG) --pkglibdir)/rgrid_heartbeat.so
	@extension=$(STAGE)$$($(PG_CONFIG) --sharedir)/extension && install -d $$extension && \
		sed 's/@CARGO_VERSION@/$(VERSION)/' rgrid_heartbeat.control >$$extension/rgrid_heartbeat.control && \
		install -m 644 $(SQL) sql/rgrid_heartbeat--*--*.sql $$extension && \
		install -m 644 sql/archive/*.sql $$extension

SQL = sql/rgrid_heartbeat--$(VERSION).sql

do-sql: do-build
	scripts/sql-script $(PROFILE) $(PG_MAJOR) $(SQL)
	@rm -f $(filter-out $(SQL) $(wildcard sql/rgrid_heartbeat--*--*.sql),$(wildcard sql/rgrid_heartbeat--*.sql))

test-sql: do-build # the SQL script in sql/ is the one that the library asks for
	scripts/sql-script $(PROFILE) $(PG_MAJOR) target/$(notdir $(SQL))
	@diff -u $(SQL) target/$(notdir $(SQL)) || { echo "$(SQL) is an old one: run 'make sql'" >&2; exit 1; }

do-demo:
	scripts/as-server-user examples $(PYTHON) demo.py --bindir $$($(PG_CONFIG) --bindir)

do-demo-picture: # docs/demo.svg, after a change of what the demo prints
	scripts/as-server-user examples $(PYTHON) demo.py --bindir $$($(PG_CONFIG) --bindir) >target/demo.txt
	scripts/demo-picture <target/demo.txt >docs/demo.svg

do-torture:
	TORTURE_SECONDS=$${TORTURE_SECONDS:-180} CHAOS_SECONDS=$${CHAOS_SECONDS:-120} cargo test $(FEATURES) --test torture

do-lints:
	cargo fmt --check
	$(MAKE) do-lint do-package do-lint-sql do-lint-packaging do-lint-monitoring do-lint-clients

do-lint:
	cargo clippy --all-targets $(FEATURES) -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
		cargo doc --lib --no-deps --document-private-items $(FEATURES)

LINT = $(CURDIR)/target/lint/bin

# PS015, CREATE OR REPLACE VIEW: PostgreSQL refuses it in a script for a view that is not the extension's.
do-lint-sql: # the scripts of this version that do-package has laid out: to create it, and to update to it
	cd $(STAGE)$$($(PG_CONFIG) --sharedir)/extension && \
		$(LINT)/pgspot --ignore PS015 rgrid_heartbeat--$(VERSION).sql rgrid_heartbeat--*--$(VERSION).sql

do-lint-packaging:
	$(LINT)/hadolint packaging/docker/Dockerfile
	$(LINT)/python scripts/lint-compose packaging/docker/compose.yaml
	$(LINT)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

# promtool reads the rules beside the tests of them.
do-lint-monitoring:
	cd examples/monitoring && $(CURDIR)/target/monitoring/usr/bin/promtool check rules alerts.yml
	cd examples/monitoring && $(CURDIR)/target/monitoring/usr/bin/promtool test rules alerts_test.yml

# The one for Python as pip installs it, so that its types are those that users get. The declarations of the one for
# Node are made from its comments; they are in the tree, so that it can be installed from there.
DECLARATIONS = index.d.ts session.d.ts
do-lint-clients:
	$(LINT)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall ./clients/python
	cd target/lint && $(LINT)/mypy --strict --cache-dir=$(CURDIR)/target/mypy --package rgrid_heartbeat
	$(LINT)/mypy --strict --cache-dir=target/mypy examples/worker.py examples/rgrid_statements.py
	clients/node/node_modules/.bin/tsc --project clients/node --outDir target/declarations
	@for file in $(DECLARATIONS); do diff target/declarations/$$file clients/node/$$file || exit 1; done

DEB = target/deb/postgresql-$(PG_MAJOR)-rgrid-heartbeat_*.deb
# Without DEBEMAIL the address comes from the checkout and may be no mailbox. Lintian may then say so, and nothing else.
LINTIAN = lintian --allow-root --fail-on error,warning \
	$(if $(DEBEMAIL),,--suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog)

do-deb:
	rm -f $(DEB)
	scripts/deb $(PG_MAJOR) $(STAGE) target/deb
	$(LINTIAN) $(DEB)

# The release to try the package in.
DEB_RELEASE ?= $(OWN)

do-test-deb:
	CLEAN_DEBIAN_ARCHIVES=target/matrix/$(DEB_RELEASE)/archives scripts/in-clean-debian $(DEB_RELEASE) \
		tests/deb/run $(DEB) packaging/docker/extension.sql -- ./run

# What the Dockerfile takes by itself.
CONTAINER ?= 15 bookworm

do-test-container:
	$(AS_ROOT) tests/container/run $(CONTAINER) $$(rustc --print sysroot)

do-bench:
	scripts/bench $$($(PG_CONFIG) --bindir)

do-bench-quick:
	scripts/bench $$($(PG_CONFIG) --bindir) --quick

test-unit: # the rules that need no server
	cargo test --lib $(FEATURES) -- --skip pg_test

test-backend: $(PGRX_HOME)/config.toml # #[pg_test]: functions inside one backend; installs a library with them
	scripts/pgrx-test pg$(PG_MAJOR)

# PostgreSQL's own runner; one of another version will do.
PG_REGRESS ?= $(firstword $(wildcard $(shell $(PG_CONFIG) --pkglibdir)/pgxs/src/test/regress/pg_regress) \
	$(wildcard /usr/lib/postgresql/*/lib/pgxs/src/test/regress/pg_regress))

test-regress: # the SQL contract, by PostgreSQL's own pg_regress
	scripts/as-server-user tests/pg_regress ./run $$($(PG_CONFIG) --bindir) $(PG_REGRESS)

# The documents that show statements, each of which is run in a server of its own. Those of queues need the tables of
# their libraries: `make test-queues`.
DOCUMENTS = $(filter-out docs/queues/%, \
	$(shell grep -lE '^ *```sql( after a death)? *$$' README.md docs/*.md docs/*/*.md 2>/dev/null))

test-readme: # every statement that the documents show
	@failed=0; for document in $(DOCUMENTS); do \
		echo "$$document"; \
		scripts/as-server-user tests/readme ./run $$($(PG_CONFIG) --bindir) - <$$document || failed=1; \
	done; exit $$failed

# The server that these tests start. They are clients, so they can be built for another one.
SERVER ?= $(PG_CONFIG)
# Modules of tests/it to run, as `sweep` or `operators::health`, and `torture`, the other crate; all when empty.
SERVER_TESTS ?=
# These need what a release of Debian has for its own server: pg_auto_failover; pg_cron; postgres_fdw and, by the same
# sign of such a server, the exporter.
FAILOVER = $(wildcard $(shell $(SERVER) --pkglibdir)/pgautofailover.so)
CRON = $(wildcard $(shell $(SERVER) --pkglibdir)/pg_cron.so)
CONTRIB = $(wildcard $(shell $(SERVER) --sharedir)/extension/postgres_fdw.control)
DEBIAN_TESTS = $(if $(FAILOVER),,server_life::failover) $(if $(CRON),,server_life::neighbours) \
	$(if $(CONTRIB),,operators::monitoring jobs::foreign_tables)
# They take minutes in which they mostly wait: `make test-patroni`.
PATRONI_TESTS = $(if $(filter server_life::patroni%,$(SERVER_TESTS)),,server_life::patroni)
# They need the libraries of job queues: `make test-queues`.
QUEUE_TESTS = $(if $(filter queues%,$(SERVER_TESTS)),,queues)
# Needs OLD_PG_CONFIG: `make test-upgrade`.
UPGRADE_TEST = release::pg_upgrade
SKIPPED = $(UPGRADE_TEST) $(PATRONI_TESTS) $(QUEUE_TESTS) $(SKIP) $(DEBIAN_TESTS)
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

test-patroni: $(call needs,patroni) ## three nodes under Patroni, with etcd and HAProxy
	$(MAKE) test-server SERVER_TESTS=server_life::patroni TEST_THREADS=2

test-queues: $(call needs,test queues) ## the job queues that are watched by name, with their own libraries
	$(MAKE) test-server SERVER_TESTS="$(or $(QUEUES:%=queues::%),queues)"

test-story: # what a user sees of the servers of a version that is tested as a whole elsewhere
	$(MAKE) test-server SERVER_TESTS="worker::story release::extension_update release::update_from_0_2_0"

test-upgrade: # pg_upgrade from the server of OLD_PG_CONFIG to SERVER; both have the extension
	PG_CONFIG=$(SERVER) cargo test $(FEATURES) --test it -- $(UPGRADE_TEST)::

# PostgreSQL 15 has all tests in `make test`: what needs no server is not repeated, nor are the clients built again.
SERVERLESS_TESTS = sweep::protocol release::metadata release::release_check release::layers release::dependencies \
	server_life::torture_checker server_life::torture_plan

# Upgrades are tried from 15, and the builds of 16 and 18 are for x86_64.
fetched = $(if $(filter 15-x86_64,$(PG_MAJOR)-$(shell uname -m)),$1-fetched,skip-fetched)

do-matrix:
	scripts/run-all $(RELEASES:%=matrix-%) $(call fetched,matrix)

do-contracts:
	scripts/run-all $(patsubst %,contract-%,$(filter-out $(OWN),$(RELEASES))) $(call fetched,contract)

skip-fetched:
	@echo "skipped: PostgreSQL 16, and pg_upgrade: that takes PostgreSQL 15 on x86_64"

test-fetched:
	scripts/run-all test-backend do-install test-regress test-readme do-fetched-servers

test-fetched-contract:
	scripts/run-all do-install test-regress do-fetched-contract

test-fetched-upgrade: do-install
	$(FETCHED) test-upgrade

.PHONY: test-fetched test-fetched-contract test-fetched-upgrade do-fetched-contract
FETCHED = $(MAKE) -k PG_CONFIG=$(OLD_PG_CONFIG) SERVER=$(PG_CONFIG)

do-fetched-servers:
	$(FETCHED) SKIP="$(SERVERLESS_TESTS)" test-server test-upgrade

do-fetched-contract:
	$(FETCHED) test-story test-upgrade
