#!/usr/bin/env bash
# Unpack Debian packages into DIR/usr without root.
#
# Usage: download_debian.sh DIR [--components "NAME.."] PACKAGE...
#
# --components names parts of the archive that apt's own sources may lack, such as non-free; they are read by sources and
# lists of our own, and nothing of the system changes.

set -euo pipefail

target="$1"
shift
components=
if [ "$1" = --components ]; then
  components="$2"
  shift 2
fi
hint="or unpack these packages elsewhere and pass --corpus-dir DIR, the folder that then holds usr/: $*"

fail() {
  if [ -d "${work:-}" ] && ! head -c 65536 /dev/zero >"$work/.probe" 2>/dev/null; then
    echo "error: no space left in $target: make room there, then run this again" >&2
  else
    echo "error: $1; $hint" >&2
  fi
  exit 1
}

for program in apt-get dpkg-deb; do
  command -v "$program" >/dev/null || fail "$program is missing: use a Debian or Ubuntu system"
done

mkdir -p "$target"
target="$(cd "$target" && pwd)"
rm -rf "$target"/.new.*
work="$(mktemp -d "$target/.new.XXXXXX")"
trap 'rm -rf "$work"' EXIT

# The system's sources with further components; both formats, .sources and .list.
private_sources() {
  local file
  mkdir "$work/sources"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
    if [ -f "$file" ]; then
      sed -E "s/^(Components:.*|deb .*)/\1 $components/" "$file" >"$work/sources/${file##*/}"
    fi
  done
  options+=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources")
}

# apt's own package lists may be missing (as in container images) and root may not be ours: keep lists of our own then.
private_lists() {
  mkdir -p "$work"/apt/{lists,cache}/partial
  options+=(-o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache")
  apt-get "${options[@]}" update
}

options=(-o Acquire::Retries=3 -o "APT::Sandbox::User=$(id -un)")
if [ -n "$components" ]; then private_sources; fi
mkdir "$work/debs" "$work/root"
cd "$work/debs"
apt-get "${options[@]}" download "$@" ||
  { echo "no such packages in apt's lists, or no connection: trying with fresh lists"; private_lists && apt-get "${options[@]}" download "$@"; } ||
  fail "the packages cannot be downloaded"
for package in ./*.deb; do
  dpkg-deb -x "$package" "$work/root" || fail "${package#./} cannot be unpacked"
done
rm -rf "$target/usr"
mv "$work/root/usr" "$target/usr"
