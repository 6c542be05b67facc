# The project's commands; `make help` lists them. Each installs what it needs (as root, from Debian's packages) and
# keeps what is slow to make (guest kernel, lab, images) in ~/.cache/crx, or in $CRX_CACHE.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PATH := $(HOME)/.cargo/bin:$(PATH)

dist := $(CURDIR)/target/dist
export CRX_DIST := $(dist)
target := x86_64-unknown-linux-gnu
# What `crx --version` says that it was built from.
export CRX_COMMIT := $(shell git -c safe.directory='*' describe --always --dirty 2>/dev/null)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F@ '{ printf "%-26s%s\n", $$1, $$2 }'

.PHONY: run
run: dist ## set everything up, then run a busybox bundle in a microVM and show what it sees
	@rootfs/images/hello target/hello
	$(dist)/crx run --bundle target/hello hello

.PHONY: dist
dist: packages ## target/dist: crx, containerd's shim, in guest/ its kernel and its first process, in share/ man pages and completions
	@vmlinux=$$(rootfs/kernel/build)
	mkdir -p $(dist)/guest
	install -C -m 644 "$$vmlinux" $(dist)/guest/vmlinux
	rootfs/initramfs $(dist)/guest/initramfs
	# Static (and at random addresses all the same): two processes a launch, and half of what each takes to begin was dynamic linking.
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(target) --package crx --package crx-shim --bin crx --bin containerd-shim-crx-v2
	install -C -m 755 "$${CARGO_TARGET_DIR:-target}/$(target)/release/"{crx,containerd-shim-crx-v2} $(dist)
	share=$(dist)/share
	rm -rf "$$share"
	mkdir -p "$$share"/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
	$(dist)/crx man "$$share/man/man1"
	$(dist)/crx completions bash >"$$share/bash-completion/completions/crx"
	$(dist)/crx completions zsh >"$$share/zsh/site-functions/_crx"
	$(dist)/crx completions fish >"$$share/fish/vendor_completions.d/crx.fish"

.PHONY: test
test: need-kvm packages-test dist images ## check, unit tests, integration tests on this host and in the lab
	@tests/stages check unit-tests integration-tests lab

.PHONY: test-full
test-full: need-kvm packages-test dist images ## the same with nothing scaled down; the kernel's check, the lab's self-test, the tests against runc and crun
	@export CRX_TEST_FULL=1
	tests/stages check unit-tests kernel-check integration-tests lab-selftest lab lab-runc lab-crun

.PHONY: check
check: packages-test ## format, lints, documentation, licences, scripts, house rules
	@./check

.PHONY: unit-tests
unit-tests: packages ## tests that need no virtual machine
	@cargo test --locked --workspace --lib --bins $$(tests/targets pure)
	cargo test --locked --workspace --doc

.PHONY: integration-tests
integration-tests: need-kvm packages-test dist images ## tests that run crx, on this host's /dev/kvm
	@tests/integration host

.PHONY: lab
lab: packages-test dist images ## the same tests in the lab, an emulated AMD machine (needs no /dev/kvm)
	@tests/integration lab

.PHONY: lab-runc
lab-runc: packages-test dist images ## the same tests in the lab against runc: what they expect is what runc does
	@CRX_TEST_RUNTIME=runc tests/integration lab

.PHONY: lab-crun
lab-crun: packages-test dist images ## the tests of podman and buildah in the lab against crun
	@CRX_TEST_RUNTIME=crun tests/integration lab podman

.PHONY: lab-selftest
lab-selftest: packages-test ## tests of the lab itself
	@tests/lab/selftest

.PHONY: kernel-check
kernel-check: packages ## what the guest kernel must have, must not have, and may weigh
	@rootfs/kernel/check

.PHONY: images
images: packages-test ## root file systems for the tests, from Debian's packages
	@rootfs/images/build >/dev/null

.PHONY: figures
figures: need-kvm packages-test dist ## how long a launch of busybox `true` takes, from a template and booting: here, and in the lab in virtual time
	@rootfs/images/hello target/true
	jq '.process.args = ["true"]' target/true/config.json >target/true/new && mv target/true/new target/true/config.json
	echo "--- this host"
	benches/launch $(dist) target/true 9
	benches/launch $(dist) target/true 3 --no-template
	echo "--- the lab, virtual time"
	in_lab() { tests/lab/lab --icount --put $(dist):dist --put target/true:bundle --put benches/launch -- "$$@"; }
	in_lab ./launch dist bundle 9
	in_lab ./launch dist bundle 9 --no-template

.PHONY: clean
clean: ## remove target/ (what is cached in ~/.cache/crx stays)
	rm -rf target

.PHONY: packages packages-test need-cargo need-kvm
packages: need-cargo
	@rootfs/packages run
packages-test: need-cargo
	@rootfs/packages run test lab
need-cargo:
	@command -v cargo >/dev/null || { echo "make: cargo is not installed: get Rust with rustup (https://rustup.rs)" >&2; exit 1; }
need-kvm:
	@[[ -r /dev/kvm && -w /dev/kvm ]] || { echo "make: this needs /dev/kvm, and it is missing or not yours to open. Without it: make check, make unit-tests, make lab" >&2; exit 1; }

# One shell for a recipe, so that a variable set in one line holds in the next.
.ONESHELL:
