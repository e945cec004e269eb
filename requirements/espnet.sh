#!/usr/bin/env bash
# Install what ESPnet's asr task imports into a folder of .venv-torch, unless it is there; run a command that sees it.
#
#   requirements/espnet.sh [command [argument...]]
#
# Where it cannot be installed, the test inside ESPnet skips; a command then fails.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${VIRTUAL_ENV:-}" != "$root/.venv-torch" ]]; then
  exec "$root/requirements/venv.sh" torch "${BASH_SOURCE[0]}" "$@"
fi
packages="$VIRTUAL_ENV/espnet"
list="$root/requirements/espnet-imports.txt"

say() { echo "[espnet] $*" >&2; }

install() {
  local work="$packages.work"
  rm -rf "$work" "$packages"
  say "install what ESPnet imports (under a minute)"
  python -m pip --disable-pip-version-check --quiet install --no-deps --target "$work" -r "$list" >&2 || return
  # PyPI's torchaudio may be compiled for another torch; the asr task needs nothing compiled of it
  PYTHONPATH="$work" python -c 'import torchaudio' 2>/dev/null || rm -r "$work/torchaudio/lib"
  PYTHONPATH="$work" python -c 'import h5py, librosa.filters, torchaudio' || return
  cp "$list" "$work/installed.txt"
  mv "$work" "$packages"
}

if ! cmp -s "$list" "$packages/installed.txt" && ! install; then
  say 'ESPnet cannot be had here: going on without, its test skips'
  [[ $# -eq 0 ]] || exit 1
fi
[[ $# -gt 0 ]] || exit 0
export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
exec "$@"
