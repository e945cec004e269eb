#!/usr/bin/env bash
# Install the benchmarks' peers into folders of the environment, unless they are there; then run a command that sees them.
#
#   requirements/venv.sh k2|torch requirements/peers.sh command [argument...]
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VIRTUAL_ENV:?is not set: run requirements/venv.sh k2|torch requirements/peers.sh ...}"
conformers="$venv/peers"
fast_rnnt="$venv/fast_rnnt==1.3"

say() { echo "[peers] $*" >&2; }
pip() { python -m pip --disable-pip-version-check --quiet "$@" >&2; }

# They are measured with ENGINE=torch alone: only there does torch have fused attention.
install_conformers() {
  say 'install conformers to compare with'
  rm -rf "$conformers"
  pip install --no-deps --target "$conformers" -r "$root/requirements/bench.txt"
  # PyPI's torchaudio is compiled for another torch here and there; its Conformer needs nothing compiled.
  PYTHONPATH="$conformers" python -c 'import torchaudio' 2>/dev/null || rm -rf "$conformers/torchaudio/lib"
  PYTHONPATH="$conformers" python -c 'import torchaudio' || exit 1
  cp "$root/requirements/bench.txt" "$conformers/installed.txt"
}

# PyPI has fast_rnnt's source alone. Its own CMake files ask for CUDA where torch was built with it, so its three files
# for the CPU are compiled here, with the flags of its release build.
install_fast_rnnt() {
  local work="$venv/fast_rnnt.work"
  rm -rf "$work" && mkdir -p "$work/source" "$work/peer"
  say "get and compile ${fast_rnnt##*/} (1-2 minutes)"
  (fetch_fast_rnnt "$work" && compile_fast_rnnt "$work/source" "$work/peer") 2>"$work/log" ||
    { say "no fast_rnnt here ($(grep -m 1 -i error "$work/log" || tail -n 1 "$work/log")): going on without"; return; }
  mv "$work/peer" "$fast_rnnt"
  rm -rf "$work"
}

fetch_fast_rnnt() {
  pip download --no-deps --no-binary fast_rnnt --dest "$1" "${fast_rnnt##*/}" &&
    tar -xzf "$1"/fast_rnnt-*.tar.gz --strip-components 1 -C "$1/source"
}

compile_fast_rnnt() {
  local source="$1/fast_rnnt" torch python suffix abi
  { read -r torch; read -r python; read -r suffix; read -r abi; } < <(python - <<'PYTHON'
import pathlib, sysconfig, torch
print(pathlib.Path(torch.__file__).parent, sysconfig.get_path("include"), sysconfig.get_config_var("EXT_SUFFIX"), sep="\n")
print(int(torch._C._GLIBCXX_USE_CXX11_ABI))
PYTHON
  )
  c++ -std=c++20 -O3 -DNDEBUG -D_GLIBCXX_USE_CXX11_ABI="$abi" -w -shared -fPIC -I "$1" -isystem "$python" \
    -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include" \
    -x c++ "$source"/csrc/mutual_information_cpu.cu "$source"/python/csrc/*.cu \
    -L "$torch/lib" -Wl,-rpath,"$torch/lib" -ltorch -ltorch_cpu -lc10 -ltorch_python -o "$2/_fast_rnnt$suffix" &&
    cp -r "$source/python/fast_rnnt" "$1/fast_rnnt.egg-info" "$2" && PYTHONPATH="$2" python -c 'import fast_rnnt'
}

[[ "$ENGINE" != torch ]] || cmp -s "$root/requirements/bench.txt" "$conformers/installed.txt" || install_conformers
[[ -d "$fast_rnnt" ]] || install_fast_rnnt
export PYTHONPATH="$conformers:$fast_rnnt${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
exec "$@"
