# Shared by every script here: where the cache is, how progress and failures are told, how a
# command runs inside the toolchain root. Sourced, never executed; must have no side effects.
# shellcheck shell=bash

set -euo pipefail

repo_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${DSI_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dsi}

# say TEXT: one line of progress on standard error, with the seconds since the script began.
say() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }

# die TEXT: what is wrong and how to mend it, then exit 1.
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_root() {
  [ "$(id -u)" -eq 0 ] || die "$(basename "$0") installs packages and makes a chroot, so it must run as root; run: sudo make ..."
}

# locked NAME CMD...: runs CMD while holding a lock, so that two makes do not build one cache twice.
locked() {
  local name=$1
  shift
  mkdir -p "$cache"
  (
    flock -n 9 || { say "waiting for another run that is building $name"; flock 9; }
    "$@"
  ) 9>"$cache/.lock-$name"
}

# quiet LOG CMD...: runs CMD with its output in LOG; on failure shows the end of it and names the file.
quiet() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    die "failed: $* (whole output: $log)"
  fi
}

# suite_of RELEASE: the Debian suite whose archive and compilers a kernel release belongs to.
suite_of() {
  case $1 in
    *+deb13*) echo trixie ;;
    *+deb14*) echo sid ;;
    *) die "kernel release '$1': only Debian's Rust-enabled kernels can be built for, named X.Y.Z+deb13-FLAVOUR (trixie-backports) or X.Y.Z+deb14-FLAVOUR (unstable); 'scripts/kernel-tree --list' shows what the archive has" ;;
  esac
}

root_of() { echo "$cache/root-$1"; }

# in_root ROOT CMD...: runs CMD in the chroot with /proc, /sys, /dev and the checkout at /src, in a
# mount namespace of its own, so that nothing stays mounted however this ends.
in_root() {
  local root=$1
  shift
  mkdir -p "$root/src"
  # shellcheck disable=SC2016
  unshare --mount --propagation private -- bash -c '
    set -e
    root=$1 src=$2; shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind "$src" "$root/src"
    exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
      DEBIAN_FRONTEND=noninteractive "$@"' in_root "$root" "$repo_root" "$@"
}

# host_apt_options: the host's own apt settings that decide whether a mirror can be used at all.
host_apt_options() {
  apt-config dump --format '%F "%v";%n' 2>/dev/null |
    grep -E '^Acquire::(Check-Valid-Until|Check-Date|http::Proxy|https::Proxy|Retries)' || true
}

# host_mirror: the mirror that this Debian host itself uses.
host_mirror() {
  local uri
  uri=$(apt-get indextargets --format '$(SITE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk '$2 ~ /\/debian\/?$/ {print $2; exit}')
  echo "${uri:-http://deb.debian.org/debian}"
}

# program NAME: builds the workspace's programs as they are shipped and prints the path of one. Always the whole
# workspace: for one package, cargo builds most dependencies again, with that package's features.
program() { built release "$1" --release; }

# test_program NAME: the same in the profile of the host's tests, and together with these: what the guests run is then
# built already.
test_program() { built debug "$1" --tests; }

# built DIR NAME ARGS...
built() {
  local dir=$1 name=$2 quiet=-q
  shift 2
  [ ! -t 2 ] || quiet=
  cargo build --locked $quiet --workspace --bins "$@" || die "cargo build failed; see above"
  echo "${CARGO_TARGET_DIR:-$repo_root/target}/$dir/$name"
}
