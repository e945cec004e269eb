#!/usr/bin/env bash
# Install the benchmarks' peers into .venv-torch/peers, unless they are there; then run a command that sees them.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${VIRTUAL_ENV:-}" != "$root/.venv-torch" ]]; then
  exec "$root/requirements/venv.sh" torch "${BASH_SOURCE[0]}" "$@"
fi

peers="$VIRTUAL_ENV/peers"
if ! cmp -s "$root/requirements/bench.txt" "$peers/installed.txt"; then
  echo '[peers] install what the benchmarks compare with' >&2
  rm -rf "$peers"
  python -m pip install --disable-pip-version-check --quiet --no-deps --target "$peers" -r "$root/requirements/bench.txt" >&2
  # PyPI's torchaudio is compiled for another torch here and there; its Conformer needs nothing compiled.
  PYTHONPATH="$peers" python -c 'import torchaudio' 2>/dev/null || rm -rf "$peers/torchaudio/lib"
  PYTHONPATH="$peers" python -c 'import torchaudio' || exit 1
  cp "$root/requirements/bench.txt" "$peers/installed.txt"
fi
export PYTHONPATH="$peers${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
exec "$@"
