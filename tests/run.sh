#!/usr/bin/env bash
# Run the suite in both environments, side by side; the last line is pytest's closing line. Tests of code that is alike in
# both run in one of them (ONE_ENVIRONMENT in tests/conftest.py).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

engine="$(requirements/venv.sh k2 printenv ENGINE)" # torch where no Python fits k2
requirements/kaldifeat.sh
requirements/espnet.sh
requirements/chromium.sh
requirements/venv.sh torch

logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT
echo '== the whole suite, in each environment at the same time'
runs=()
[ "$engine" = torch ] || export SIDE_BY_SIDE=true
for engine in $(printf '%s\n' "$engine" torch | uniq); do
  requirements/venv.sh "$engine" pytest --color=no 2>&1 | tee "$logs/$engine" | sed -u "s/^/[$engine] /" &
  runs+=($!)
done
failed=0
for run in "${runs[@]}"; do
  wait "$run" || failed=1
done

for log in "$logs"/*; do
  echo "== ENGINE=${log##*/}"
  tail -n 1 "$log"
done
exit "$failed"
