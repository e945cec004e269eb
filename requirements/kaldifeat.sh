#!/usr/bin/env bash
# Install kaldifeat in .venv-torch: compiled from its source package (1-2 minutes), or the wheel that was compiled
# before for the same torch and Python, which is kept in ${XDG_CACHE_HOME:-~/.cache}/shared-moe-conformer
# (without a home: in build/.cache). Where it cannot be compiled, its test skips; an error of compiling itself is one.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${VIRTUAL_ENV:-}" != "$root/.venv-torch" ]]; then
  exec "$root/requirements/venv.sh" torch "${BASH_SOURCE[0]}"
fi

say() { echo "[kaldifeat] $*" >&2; }
fail() { say "error: $*"; exit 1; }
do_without() { say "$*: going on without, tests of kaldifeat skip"; exit 0; }

# One second of noise gives 98 frames of 80 finite bins.
runs() {
  python - <<'PYTHON'
import kaldifeat, torch
options = kaldifeat.FbankOptions()
options.mel_opts.num_bins = 80
features = kaldifeat.Fbank(options)(torch.rand(16000))
assert features.shape == (98, 80) and features.isfinite().all()
PYTHON
}

pin() { grep "^$1[=>]" "$root/requirements/kaldifeat.txt"; }

pip() { python -m pip --disable-pip-version-check --quiet "$@" >&2; }

include() { python -c 'import sysconfig; print(sysconfig.get_path("include"))'; }

install_wheel() { pip install --no-deps --no-index --force-reinstall "$1"/kaldifeat-*.whl; }

# kaldifeat's CMake would download pybind11: it gets the one of pybind11's source package instead.
fetch() {
  pip install "$(pin cmake)" "$(pin wheel)" && pip download --no-deps --no-binary pybind11 --dest "$1" "$(pin pybind11)"
}

# A unity build parses torch's headers once for all source files: 1.6 CPU minutes instead of 8. Nothing comes from pip's
# own cache of wheels, which does not know for which torch a wheel was compiled.
compile() {
  local folder="$1"
  mkdir "$folder/pybind11"
  tar -xzf "$folder"/pybind11-*.tar.gz --strip-components 1 -C "$folder/pybind11"
  say "compile $(pin kaldifeat) (1-2 minutes)"
  KALDIFEAT_CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_STANDARD=20 -DCMAKE_POLICY_VERSION_MINIMUM=3.5 \
    -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=16 -DFETCHCONTENT_SOURCE_DIR_PYBIND11=$folder/pybind11" \
    KALDIFEAT_MAKE_ARGS="-j$(nproc)" \
    CPATH="$(include)${CPATH:+:$CPATH}" \
    pip wheel --no-build-isolation --no-deps --no-cache-dir --wheel-dir "$folder" "$(pin kaldifeat)"
}

# kaldifeat's version, torch's build and the Python and platform: what a compiled wheel fits.
wheel_key() {
  python - "$(pin kaldifeat | tr -s = -)" <<'PYTHON'
import sys, sysconfig, torch
print(sys.argv[1], f"torch{torch.__version__}", sys.implementation.cache_tag, sysconfig.get_platform(), sep="-")
PYTHON
}

if runs 2>/dev/null; then
  say 'already installed'
  exit
fi
kept="${XDG_CACHE_HOME:-${HOME:-$root/build}/.cache}/shared-moe-conformer/$(wheel_key)"
if [[ -d "$kept" ]] && install_wheel "$kept" && runs; then
  say "installed the wheel that was compiled before: $kept"
  exit
fi

for tool in c++ make tar; do
  command -v "$tool" >/dev/null || do_without "no $tool here, which compiling takes (Debian: build-essential)"
done
[[ -f "$(include)/Python.h" ]] || do_without "no Python.h in $(include), which compiling takes (Debian: python3-dev)"
folder="$(mktemp -d "$VIRTUAL_ENV/kaldifeat.XXXXXX")"
trap 'rm -rf "$folder"' EXIT
say "get the source of $(pin pybind11), install $(pin cmake)"
fetch "$folder" 2>"$folder/log" || do_without "what compiling takes cannot be had ($(tail -n 1 "$folder/log"))"
compile "$folder"
install_wheel "$folder"
runs || fail 'it was compiled, but computes no features'
mkdir -p "$kept"
mv "$folder"/kaldifeat-*.whl "$kept"
say "installed; the wheel is kept in $kept"
