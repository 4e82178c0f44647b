# The ways into the project. Each target sets up what it needs (as root, on Debian 12 or 13) and caches
# it outside of the checkout, in $DSI_CACHE (default ~/.cache/dsi). All work is done by scripts/.

KERNEL ?= newest
PACKETS ?= 1000000
CYCLES ?= 500
SECONDS ?= 60
# Of what takes long by nature: how long in all, and for one test.
LONG = QEMU_LIMIT=43200 TEST_LIMIT=43200
export DSI_CACHE

.DEFAULT_GOAL := help
.PHONY: help setup demo check check-host check-qemu check-attack check-programs check-selftests check-kernels check-debug soak fuzz build module guest bench-kernel bench-wire kernels fmt clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  KERNEL=<release> picks another stock kernel (make kernels lists them); DSI_CACHE=<dir> another cache"

demo: setup ## two nodes, two operators, one policy: the scenario of 2004, step by step
	@scripts/demo

check: setup ## every test: format, lints, host tests, module, QEMU suites
	@scripts/check

check-host: setup ## only what needs no QEMU: format, lints, host tests
	@scripts/check host

check-qemu: setup ## only the QEMU suites (FILTER=<part of a name> for some of them)
	@scripts/check qemu

check-attack: setup ## a million forged packets (PACKETS=<number>) against a node
	@DSI_ATTACK_PACKETS=$(PACKETS) $(LONG) FILTER=attack/ scripts/check qemu

check-programs: setup ## Redis, nginx and PostgreSQL, unchanged, each in its zone under load
	@$(LONG) FILTER=programs/ scripts/check qemu

check-selftests: setup ## the kernel's own network selftests, with the module and without it
	@$(LONG) FILTER=selftests/ scripts/check qemu

soak: setup ## 500 loads and unloads (CYCLES=<number>) under verified traffic: no byte lost, nothing left
	@DSI_SOAK_CYCLES=$(CYCLES) $(LONG) FILTER=soak/ scripts/check qemu

check-kernels: setup ## the QEMU suites on every stock kernel of the archive that has Rust (FILTER, KERNELS)
	@scripts/check-kernels

check-debug: setup ## the QEMU suites on a kernel with KASAN, lockdep, kmemleak and UBSAN (FILTER); an hour or more
	@scripts/check-debug

fuzz: setup ## fuzz what bytes of others reach, with coverage, for SECONDS (60)
	@env -u SECONDS scripts/fuzz $(SECONDS)

build: setup ## smd, ssd and dsictl, into target/release
	@cargo build --locked --release --workspace --exclude dsi-qemu-tests --exclude dsi-demo

module: setup ## dsm.ko for KERNEL, into target/module/<release>
	@scripts/build-module $(KERNEL)

guest: setup ## the disk images of the test nodes
	@scripts/guest-image $(KERNEL)

bench-kernel: setup ## instructions per operation, beside other systems; into target/bench/kernel.json
	@scripts/bench-kernel

bench-wire: setup ## instructions per MB at both ends of a network card; into target/bench/wire.json
	@$(LONG) FILTER=wire/ scripts/check qemu

kernels: setup ## the stock kernels of the archive that a module can be built for
	@scripts/kernel-tree --list

setup: ## the packages that everything else needs
	@scripts/setup

fmt: ## format the Rust sources
	@cargo fmt --all

clean: ## remove what was built in the checkout (the cache stays)
	@rm -rf target
