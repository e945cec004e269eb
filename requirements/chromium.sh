#!/usr/bin/env bash
# Install Chromium and its driver, in which tests look at the pages: by apt-get, where that is there and one is root.
# Where they cannot be installed, those tests skip.
set -euo pipefail

say() { echo "[chromium] $*" >&2; }

is_there() { chromium --version >/dev/null 2>&1 && chromedriver --version >/dev/null 2>&1; }

# A mirror that fails, an installation that was killed, another apt-get at work: they pass, so it is tried three times.
install() {
  local attempt options=(-qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
  export DEBIAN_FRONTEND=noninteractive
  for attempt in 1 2 3; do
    dpkg --configure -a || true
    apt-get "${options[@]}" update || say 'not all lists of packages could be read: going on with those that are here'
    apt-get "${options[@]}" install -y --no-install-recommends chromium chromium-driver && return
    [[ "$attempt" == 3 ]] || sleep $((10 * attempt))
  done
  return 1
}

if is_there; then
  exit 0
fi
if ! command -v apt-get >/dev/null || [[ "$(id -u)" != 0 ]]; then
  say 'no chromium and chromedriver here, and no way to install them (that takes root and apt-get): tests of pages skip'
  exit 0
fi
say 'install chromium and chromium-driver (120 MB to download)'
if install >&2 && is_there; then
  say 'installed'
else
  say 'not installed: tests of pages skip'
fi
