#!/usr/bin/env bash
# Unpack Debian packages into DIR/usr without root. Usage: download_debian.sh DIR PACKAGE...

set -euo pipefail

target="$1"
shift
hint="or unpack these packages elsewhere and pass --corpus-dir DIR, the folder that then holds usr/: $*"

fail() {
  echo "error: $1; $hint" >&2
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

# apt's own package lists may be missing (as in container images) and root may not be ours: keep lists of our own then.
private_lists() {
  mkdir -p "$work"/apt/{lists,cache}/partial
  options+=(-o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache")
  apt-get "${options[@]}" update
}

options=(-o Acquire::Retries=3 -o "APT::Sandbox::User=$(id -un)")
mkdir "$work/debs" "$work/root"
cd "$work/debs"
apt-get "${options[@]}" download "$@" ||
  { echo "no such packages in apt's lists, or no connection: trying with fresh lists"; private_lists && apt-get "${options[@]}" download "$@"; } ||
  fail "the packages cannot be downloaded"
for package in ./*.deb; do
  dpkg-deb -x "$package" "$work/root"
done
rm -rf "$target/usr"
mv "$work/root/usr" "$target/usr"
