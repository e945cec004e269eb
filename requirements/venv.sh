#!/usr/bin/env bash
# Make an engine's virtual environment, .venv-k2 or .venv-torch, unless it is up to date; then run a command in it.
#
#   requirements/venv.sh k2|torch [command [argument...]]
#
# Settings, from the environment; an environment made with them keeps them:
#   PYTHON      the Python to build on, instead of the first suitable one in PATH
#   TORCH       with k2: version of torch, e.g. 2.7.1; goes with K2_WHEELS
#   K2_WHEELS   with k2: page that lists k2's wheels, instead of the k2 that PyPI has
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
requirements="$root/requirements"

say() { echo "[set-up] $*" >&2; }
fail() { say "error: $*"; exit 1; }

choose_engine() {
  engine="$1"
  venv="$root/.venv-$engine"
  python="${PYTHON:-}" torch="${TORCH:-}" k2_wheels="${K2_WHEELS:-}"
  [[ "$engine" == k2 ]] || torch='' k2_wheels=''
  [[ -n "$python$torch$k2_wheels" || ! -f "$venv/settings" ]] || source "$venv/settings"
  [[ -n "$torch" || -z "$k2_wheels" ]] || fail 'K2_WHEELS without TORCH: give both'
  [[ -z "$torch" || -n "$k2_wheels" ]] || fail 'TORCH without K2_WHEELS: give both'
}

# Checksum of all that the environment depends on; when it changes, the environment is made again.
fingerprint() {
  { echo "$root" "$python" "$torch" "$k2_wheels"; cat "$root/setup.py" "$requirements"/{venv.sh,*.txt}; } | cksum
}

is_up_to_date() {
  [[ "$(cat "$venv/fingerprint" 2>/dev/null)" == "$(fingerprint)" ]] && "$venv/bin/python" -c '' 2>/dev/null
}

# The first of the named Pythons that really runs (a pyenv shim may not) and can make virtual environments.
# For an activated environment, the Python that it was made with: the environment itself may be removed soon.
find_python() {
  local candidate check='import ensurepip, sys, venv; assert sys.version_info >= (3, 10); print(sys._base_executable)'
  for candidate in $(type -ap "$@"); do
    "$candidate" -c "$check" 2>/dev/null && return
  done
  return 1
}

# Set `interpreter`; false if ENGINE=k2 has none.
choose_python() {
  local advice='install one that can make virtual environments (Debian: python3-venv)'
  if [[ -n "$python" ]]; then
    interpreter="$(find_python "$python")" || fail "PYTHON=$python is no working Python 3.10 or newer: $advice"
  elif [[ "$engine" == k2 && -z "$k2_wheels" ]]; then
    [[ "$(uname -sm)" == 'Linux x86_64' ]] && interpreter="$(find_python python3.11 python3.10)"
  else
    interpreter="$(find_python python3.11 python3.12 python3.13 python3.10 python3)" ||
      fail "no working Python 3.10 or newer found: $advice"
  fi
}

pip_install() {
  local quiet=--quiet
  [[ ! -t 2 ]] || quiet=--no-input # a person sees pip's progress bars
  "$venv/bin/python" -m pip install --disable-pip-version-check "$quiet" "$@" >&2
}

# The packages of a requirement file, and those that tests and checks need; more requirements may follow.
install_packages() {
  local file="$requirements/$1"
  shift
  say "install $(grep '^torch==' "$file" || echo "$@") (some GB to download) and the rest of ${file#"$root/"}"
  pip_install -r "$file" -r "$requirements/dev.txt" "$@"
  pip_install --no-deps -r "$requirements/espnet.txt"
}

install_pinned_k2() {
  install_packages k2.txt
  say 'install k2, pinned by hash'
  pip_install --no-deps -r "$requirements/k2-wheel.txt"
}

install_current_k2() {
  local k2
  install_packages k2-current.txt "torch==$torch"
  k2="$(find_k2)" || fail "$k2_wheels has no k2 for torch $torch and $("$venv/bin/python" --version)"
  say "install k2 $k2 from $k2_wheels"
  pip_install --no-deps --find-links "$k2_wheels" "k2==$k2"
}

# The newest version on the page that was compiled for the installed torch, e.g. 1.24.4.dev20250714+cpu.torch2.7.1.
find_k2() {
  local cuda
  cuda="$("$venv/bin/python" -c 'import torch; print(torch.version.cuda or "")')"
  "$venv/bin/python" -m pip index versions k2 --pre --find-links "$k2_wheels" 2>/dev/null |
    tr -s ', ' '\n' | grep -m 1 -xE "[0-9.a-z]+\+(cpu|cuda$cuda)\.torch${torch//./\\.}"
}

build() {
  say "make .venv-$engine with $("$interpreter" --version)"
  rm -rf "$venv"
  "$interpreter" -m venv "$venv"
  case "$engine${k2_wheels:+-current}" in
    k2) install_pinned_k2 ;;
    k2-current) install_current_k2 ;;
    torch) install_packages torch.txt -r "$requirements/transformers.txt" ;;
  esac
  say 'install this package, editable'
  pip_install --no-deps --no-build-isolation --editable "$root"
  say 'check that what was installed imports'
  "$venv/bin/python" -c 'import kaldifst, lhotse, shared_moe_conformer, torch'
  [[ "$engine" == torch ]] || "$venv/bin/python" -c 'import k2'
  printf '%s=%q\n' python "$python" torch "$torch" k2_wheels "$k2_wheels" >"$venv/settings"
  fingerprint >"$venv/fingerprint"
  say "ready: source .venv-$engine/bin/activate"
}

# Of several calls at once (where the system has flock) one builds, and the others find what it has made.
build_alone() (
  ! command -v flock >/dev/null || flock 9
  is_up_to_date || build
) 9<"$requirements/$engine.txt"

[[ "${1:-}" == k2 || "${1:-}" == torch ]] || fail "ENGINE is '${1:-}': give k2 or torch"
choose_engine "$1"
shift
if ! is_up_to_date && ! choose_python; then
  say "no Python 3.11 or 3.10 for Linux x86_64 found, and PyPI's k2 needs it: ENGINE=torch instead"
  choose_engine torch
  is_up_to_date || choose_python
fi
is_up_to_date || build_alone

[[ $# -gt 0 ]] || exit 0
export ENGINE="$engine" VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
exec "$@"
