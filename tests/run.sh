#!/usr/bin/env bash
# Run the whole suite in both environments; the last line is pytest's closing line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

engine="$(requirements/venv.sh k2 printenv ENGINE)" # torch where no Python fits k2
requirements/kaldifeat.sh
requirements/chromium.sh

logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT
failed=0
for engine in $(printf '%s\n' "$engine" torch | uniq); do
  echo "== the whole suite with ENGINE=$engine"
  requirements/venv.sh "$engine" pytest --color=no 2>&1 | tee "$logs/$engine" || failed=1
done

for log in "$logs"/*; do
  echo "== ENGINE=${log##*/}"
  tail -n 1 "$log"
done
exit "$failed"
