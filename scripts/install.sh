#!/usr/bin/env bash
# Installs what is missing, through the system's package manager, and says what it does.
#   scripts/install.sh build      to build: C and C++ compiler, libclang (RocksDB's bindings)
#   scripts/install.sh demo       the same, and python3-venv, sqlite3
#   scripts/install.sh postgres   only a PostgreSQL server and its tools
#   scripts/install.sh test       all of it, gnupg, git, and what files are tested with: rsync, setfacl,
#                               bsdtar, fusermount3, file; sftp-server, and an S3 server, into the build cache
#   scripts/install.sh check      to build, and cargo-deny, built once into the build cache
#   scripts/install.sh bench      to build, and what is measured against: restic, borg, PostgreSQL, pigz, GNU time
#   scripts/install.sh peers      the same, and rustic and bupstash, built once into the build cache
# Nothing missing: silent and quick. Tested on Debian and Ubuntu; dnf, pacman and brew as far as known.
set -euo pipefail

case ${1:-} in
  build) wanted="cc c++ clang libclang" ;;
  demo) wanted="cc c++ clang libclang venv sqlite3" ;;
  postgres) wanted="postgres" ;;
  test) wanted="cc c++ clang libclang venv sqlite3 gpg git postgres rsync setfacl bsdtar fusermount3 file strace sftp-server" ;;
  check) wanted="cc c++ clang libclang" ;;
  bench) wanted="cc c++ clang libclang python3 venv sqlite3 postgres restic borg rsync time pigz" ;;
  peers) wanted="cc c++ clang libclang python3 sqlite3 postgres restic borg rsync time pkg-config libsodium" ;;
  *) echo "usage: scripts/install.sh build|demo|postgres|test|check|bench|peers" >&2; exit 2 ;;
esac

any_file() { local path; for path; do [ -e "$path" ] && return 0; done; return 1; }

# Whether one of the wanted things is there; asked of the thing, not of the package manager.
have() {
  case $1 in
    libclang) any_file ${LIBCLANG_PATH:+"$LIBCLANG_PATH"/libclang*} /usr/lib{,64}/libclang.so* \
      /usr/lib{,64}/{llvm*/lib,*-linux-gnu*}/libclang{.,-[0-9]}*so* {/opt/homebrew,/usr/local}/opt/llvm/lib/libclang.dylib \
      /Library/Developer/CommandLineTools/usr/lib/libclang.dylib ;;
    venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    postgres) command -v initdb >/dev/null || any_file /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb ;;
    fusermount3) [ "$(uname)" != Linux ] || command -v fusermount3 >/dev/null ;;
    sftp-server) any_file /usr/lib{,exec}/{openssh/,ssh/,}sftp-server ;;
    time) [ -x /usr/bin/time ] ;;   # the shell has one of its own
    libsodium) pkg-config --exists libsodium 2>/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# The name of its package.
package() {
  case $manager:$1 in
    apt-get:cc | apt-get:c++) echo build-essential ;;
    apt-get:libclang) echo libclang-dev ;;
    apt-get:setfacl | dnf:setfacl | pacman:setfacl) echo acl ;;
    apt-get:bsdtar) echo libarchive-tools ;;
    pacman:bsdtar | brew:bsdtar) echo libarchive ;;
    apt-get:fusermount3 | dnf:fusermount3 | pacman:fusermount3) echo fuse3 ;;
    apt-get:sftp-server) echo openssh-sftp-server ;;
    dnf:sftp-server) echo openssh-server ;;
    pacman:sftp-server | brew:sftp-server) echo openssh ;;
    apt-get:venv) echo python3-venv ;;
    apt-get:gpg) echo gnupg ;;
    apt-get:postgres) echo postgresql postgresql-client ;;
    apt-get:borg | dnf:borg | brew:borg) echo borgbackup ;;
    apt-get:libsodium) echo libsodium-dev ;;
    dnf:cc) echo gcc ;;
    dnf:c++) echo gcc-c++ ;;
    dnf:libclang) echo clang-devel ;;
    dnf:venv) echo python3 ;;
    dnf:sqlite3) echo sqlite ;;
    dnf:gpg) echo gnupg2 ;;
    dnf:postgres) echo postgresql-server postgresql-contrib ;;
    dnf:libsodium) echo libsodium-devel ;;
    pacman:cc | pacman:c++) echo base-devel ;;
    pacman:libclang) echo clang ;;
    pacman:venv) echo python ;;
    pacman:sqlite3) echo sqlite ;;
    pacman:gpg) echo gnupg ;;
    pacman:postgres) echo postgresql ;;
    brew:cc | brew:c++ | brew:clang | brew:libclang) echo llvm ;;
    brew:venv) echo python ;;
    brew:sqlite3) echo sqlite ;;
    brew:gpg) echo gnupg ;;
    brew:postgres) echo postgresql ;;
    *) echo "$1" ;;
  esac
}

# Package managers talk too much; what they said is shown when they fail.
quietly() {
  local said
  said=$("$@" 2>&1) || { echo "$said" >&2; echo "error: this failed: $*" >&2; exit 1; }
}

missing=()
for thing in $wanted; do have "$thing" || missing+=("$thing"); done

if [ ${#missing[@]} -gt 0 ]; then
  manager=
  for name in apt-get dnf pacman brew; do
    if command -v $name >/dev/null; then manager=$name; break; fi
  done
  [ -n "$manager" ] || { echo "error: no package manager known here; please install: ${missing[*]}" >&2; exit 1; }
  read -ra packages <<<"$(for thing in "${missing[@]}"; do package "$thing"; done | tr ' ' '\n' | sort -u | tr '\n' ' ')"

  root=()
  if [ "$manager" != brew ] && [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "error: as root, please run: $manager install ${packages[*]}" >&2; exit 1; }
    root=(sudo)
  fi
  echo "missing: ${missing[*]}; installing with $manager: ${packages[*]}" >&2
  case $manager in
    apt-get)
      quietly "${root[@]}" apt-get update
      quietly "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${packages[@]}" ;;
    dnf) quietly "${root[@]}" dnf install -y "${packages[@]}" ;;
    pacman) quietly "${root[@]}" pacman -S --noconfirm --needed "${packages[@]}" ;;
    brew) quietly brew install "${packages[@]}" ;;
  esac
  hash -r
  for thing in "${missing[@]}"; do
    have "$thing" || { echo "error: $thing is still missing after installing ${packages[*]}" >&2; exit 1; }
  done
fi

if [ "$1" != postgres ] && ! command -v cargo >/dev/null && [ ! -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
  cat >&2 <<'SAY'
error: Rust is missing. It is installed for your user, without root, by
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
Then open a new shell, or run:  . "$HOME/.cargo/env"
SAY
  exit 1
fi

# Tools that cargo builds, once, into the build cache: PROGRAM PACKAGE@VERSION
from_cargo() {
  local cache
  cache=$("$(dirname "$0")/cache.sh")
  if ! PATH=$cache/bin:$PATH command -v "$1" >/dev/null; then
    echo "missing: $1; building it once into $cache/bin (some minutes) …" >&2
    quietly cargo install --quiet --locked --root "$cache" "$2"
  fi
}
case $1 in
  test) "$(dirname "$0")/venv.sh" moto >/dev/null ;;
  check) from_cargo cargo-deny cargo-deny@0.20.2 ;;
  peers) from_cargo bupstash bupstash@0.12.0; from_cargo rustic rustic-rs@0.11.4 ;;
esac
