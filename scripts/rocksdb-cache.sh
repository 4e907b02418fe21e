#!/usr/bin/env bash
# Builds the RocksDB that Cargo.lock pins once, into a cache that every profile and clone shares,
# and prints the settings that make librocksdb-sys link it:  eval "$(scripts/rocksdb-cache.sh)"
# The cache is the folder that scripts/cache.sh prints.
set -euo pipefail
cd "$(dirname "$0")/.."

version() { awk -v crate="\"$1\"" '$1=="name" && $3==crate {getline; gsub(/"/,"",$3); print $3; exit}' Cargo.lock; }
rocksdb=$(version rocksdb)
sys=$(version librocksdb-sys)
cache=$(scripts/cache.sh)
home=$cache/librocksdb-$sys-$(uname -m)

if [ ! -f "$home/lib/librocksdb.a" ]; then
  echo "building RocksDB $sys once into $home (about 14 CPU-minutes) …" >&2
  scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
  mkdir -p "$scratch/src"
  printf '[package]\nname = "rocksdb-cache"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nrocksdb = { version = "=%s", default-features = false, features = ["bindgen-runtime"] }\nlibrocksdb-sys = "=%s"\n[workspace]\n' "$rocksdb" "$sys" >"$scratch/Cargo.toml"
  : >"$scratch/src/lib.rs"
  # CRC32C in hardware: every x86-64 machine since 2008 has SSE4.2.
  [ "$(uname -m)" = x86_64 ] && export CXXFLAGS="${CXXFLAGS:-} -msse4.2 -mpclmul"
  env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC -u ROCKSDB_INCLUDE_DIR \
    cargo build --quiet --release --manifest-path "$scratch/Cargo.toml" --target-dir "$scratch/target" >&2
  built=$(find "$scratch/target/release/build" -name librocksdb.a | head -1)
  sources=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -maxdepth 2 -name "librocksdb-sys-$sys" | head -1)
  mkdir -p "$home.partial/lib"
  cp "$built" "$home.partial/lib/"
  cp -r "$sources/rocksdb/include" "$home.partial/"
  mv "$home.partial" "$home"
fi
printf 'export ROCKSDB_LIB_DIR=%q ROCKSDB_INCLUDE_DIR=%q ROCKSDB_STATIC=1\n' "$home/lib" "$home/include"
