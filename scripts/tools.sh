#!/bin/bash
# Installs the pinned development tools into the cache folder and prints the
# folder with the programs. golangci-lint takes about 2 minutes to build the
# first time; it stays out of go.mod, which would drag in its dependencies.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

golangci_lint=v2.15.0

bin=$hv_cache/tools/golangci-lint-$golangci_lint
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || die "needs Go: see https://go.dev/doc/install"
build() {
	[[ -x $bin/golangci-lint ]] && return
	say "building golangci-lint $golangci_lint (about 2 minutes)"
	CGO_ENABLED=0 GOBIN=$bin.new GOFLAGS='' go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$golangci_lint" 2> >(grep -v '^go: downloading' >&2)
	mkdir -p "$bin"
	mv "$bin.new/golangci-lint" "$bin/golangci-lint"
	rmdir "$bin.new"
}
[[ -x $bin/golangci-lint ]] || with_lock "$hv_cache/tools/.lock" build
printf '%s\n' "$bin"
