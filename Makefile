# Build, test, check, measure, show; `make` alone lists the targets.
# Each first installs what it needs and is missing, and says so (scripts/install.sh).

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help build demo test majors check audit bench

# What `make demo` runs on: sqlite or postgres.
DATABASE ?= sqlite
# What `make bench` compares the peers with: two versions of a tree of files, if given.
TREES ?=
# The cargo profile of `make build` and `make demo`.
PROFILE ?= release

# Rust may have been installed since this shell was opened.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# cargo, with the one RocksDB that all profiles and clones share (scripts/rocksdb-cache.sh).
cargo = rocksdb=$$(scripts/rocksdb-cache.sh) && eval "$$rocksdb" && cargo

help: ## lists the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 16

build: ## builds the program: target/release/coeval
	@scripts/install.sh build
	@$(cargo) build --locked --profile $(PROFILE)

demo: ## shows everything on a real application; DATABASE=postgres on PostgreSQL
	@scripts/install.sh demo
	@case $(DATABASE) in sqlite) ;; postgres) scripts/install.sh postgres ;; \
	  *) echo 'DATABASE is sqlite or postgres' >&2; exit 2 ;; esac
	@$(cargo) build --locked --profile $(PROFILE)
	@scripts/demo.sh $(DATABASE) "$${CARGO_TARGET_DIR:-target}/$(PROFILE:dev=debug)/coeval"

test: ## runs all tests
	@scripts/install.sh test
	@$(cargo) test --locked

majors: ## captures and restores databases of other major versions of PostgreSQL; needs the network once
	@$(cargo) build --locked
	@scripts/majors.sh "$${CARGO_TARGET_DIR:-target}/debug/coeval"

check: ## formatting, lints, documentation, rules of the house, dependencies
	@scripts/install.sh check
	cargo fmt --check
	@$(cargo) clippy --locked --all-targets -- -D warnings
	@RUSTDOCFLAGS='-D warnings' && export RUSTDOCFLAGS && $(cargo) doc --locked --no-deps
	@$(cargo) test --locked --test tidy
	@PATH="$$(scripts/cache.sh)/bin:$$PATH" cargo deny --locked check bans licenses sources

audit: ## asks RustSec about known vulnerabilities; needs the network, and its answer changes daily
	@scripts/install.sh check
	@PATH="$$(scripts/cache.sh)/bin:$$PATH" cargo deny --locked check advisories

bench: ## measures the parts, growth, and whole processes beside the peers that are installed
	@scripts/install.sh bench
	@$(cargo) bench --locked --bench parts
	@$(cargo) build --locked --release
	@benches/growth.sh "$${CARGO_TARGET_DIR:-target}/release/coeval"
	@benches/databases.sh "$${CARGO_TARGET_DIR:-target}/release/coeval"
	@benches/outage.sh "$${CARGO_TARGET_DIR:-target}/release/coeval"
	@benches/package.sh "$${CARGO_TARGET_DIR:-target}/release/coeval"
	@PATH="$$(scripts/cache.sh)/bin:$$PATH" \
	  benches/peers.sh "$${CARGO_TARGET_DIR:-target}/release/coeval" $(TREES)
