#!/usr/bin/env bash
# Install Chromium and its driver, in which tests look at the pages: by apt-get, where that is there and one is root.
# Where they cannot be installed, those tests skip.
set -euo pipefail

say() { echo "[chromium] $*" >&2; }

is_there() { command -v chromium >/dev/null && command -v chromedriver >/dev/null; }

install() {
  local options=(-qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
  apt-get "${options[@]}" update &&
    DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y --no-install-recommends chromium chromium-driver
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
