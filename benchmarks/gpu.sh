#!/usr/bin/env bash
# Checks every path that a GPU computes against the CPU, and times it, in eight minutes at most; see gpu.py.
#
# Usage: benchmarks/gpu.sh [--device cpu] [--quick]     (in an environment made by `make install`)

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
exec timeout 480 python3 -m benchmarks.gpu "$@"
