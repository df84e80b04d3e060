# hvctl. `make help` lists the targets; anything longer lives in scripts/.

export CGO_ENABLED := 0
GO      ?= go
# urfave_cli_no_docs: hvctl makes its man page itself, and the library's way costs each start some milliseconds.
BUILD   := $(GO) build -trimpath -ldflags '-s -w' -tags urfave_cli_no_docs
PROGS   := $(patsubst cmd/%/,%,$(sort $(dir $(wildcard cmd/*/*.go))))
FUZZTIME ?= 3s
export FUZZTIME

.PHONY: help build test test-unit test-kvm test-guest fuzz lint bench bench-boot bench-migrate kernel demo ci tools clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: $(PROGS:%=build-%) bin/hvctl-oci-vm build-full ## build every program below cmd/ into bin/
bin/hvctl-oci-vm: # by this name, bundles run as microVMs
	ln -sf hvctl-oci $@
build-full: # hvctl-oci with what speaks to CRIU and systemd, which would make every start of hvctl-oci slower
	$(BUILD),full -o bin/hvctl-oci-full ./cmd/hvctl-oci
build-%:
	$(BUILD) -o bin/$* ./cmd/$*

test: ## run all tests: here, fuzzed for some seconds, and in the test host
	scripts/test

test-unit: ## run what needs nothing: no KVM, no root (the rest is skipped)
	$(GO) test ./...

test-kvm: ## run the unit and kvm tests on this machine, with the race detector
	scripts/test machine

test-guest: ## run the tests that need KVM, root or guest kernels, in the test host
	scripts/test guest

fuzz: ## run every fuzz target for FUZZTIME (3s)
	scripts/test fuzz

lint: ## run gofmt, go vet and the linters
	scripts/lint

bench: ## run the Go benchmarks
	$(GO) test -run "^$$" -bench . -benchmem ./...

bench-boot: ## measure the way to a workload's first output, beside QEMU's microvm
	scripts/bench-boot

bench-migrate: ## measure live migration beside QEMU, over a link of a given rate
	scripts/bench-migrate

kernel: ## prepare the guest kernels: Debian's cloud and generic, our minimal one
	scripts/guest-kernels

demo: ## build all, make an image and run it in a microVM
	scripts/demo

ci: ## what continuous integration runs
	.ci/run

tools: ## install the pinned development tools into the cache folder
	scripts/tools.sh

clean: ## remove what was built here (the cache folder stays)
	rm -rf bin out
