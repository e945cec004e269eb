# Sourced by every recipe's prepare.sh, from the recipe's own folder and after its options have their defaults:
#
#   cd "$(dirname "${BASH_SOURCE[0]}")"
#   vocab_size=500                       # an option: --vocab-size 500
#   . ../../../local/stages.sh "$@"
#   stage 0 "Download" download          # runs the function `download`
#   stage 1 "Tokenizer" tokenizer vocab_size    # and again whenever vocab_size changes
#
# Strict mode; --stage N, --stop-stage N, --force true, --help; every `name=value` set before sourcing is an option
# `--name value`. A finished stage leaves data/.done/N and is skipped by the next run; a stage that runs makes all
# later ones run again. A stage that fails or is killed leaves no mark. The habit is icefall's (parse_options.sh).

set -euo pipefail

stage=0
stop_stage=100
force=false

fail() {
  echo "error: $*" >&2
  exit 1
}

show_help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit 0
}

parse_options() {
  local name
  while [ $# -gt 0 ]; do
    case "$1" in
      -h | --help) show_help ;;
      --?*) name="${1#--}" ;;
      *) fail "'$1' is no option: see $0 --help" ;;
    esac
    name="${name//-/_}"
    [[ "$name" =~ ^[a-z][a-z_0-9]*$ ]] && [ -n "${!name+set}" ] && [[ "$name" != *[A-Z]* ]] || fail "no option $1: see $0 --help"
    [ $# -ge 2 ] || fail "$1 needs a value"
    printf -v "$name" '%s' "$2"
    shift 2
  done
  local number
  for number in stage stop_stage; do
    [[ "${!number}" =~ ^[0-9]+$ ]] || fail "--${number//_/-} is '${!number}': give a number"
  done
}

need_python() {
  command -v python3 >/dev/null || fail "python3 is not on the PATH: run make install and activate its environment"
  python3 -c 'import shared_moe_conformer, lhotse, sentencepiece' 2>/dev/null ||
    fail "$(command -v python3) cannot import shared_moe_conformer: run make install and activate its environment"
}

# Usage: stage NUMBER TITLE FUNCTION [OPTION...]
stage() {
  local number="$1" title="$2" body="$3" option settings="" marker="data/.done/$1" later
  shift 3
  for option in "$@"; do settings+="$option=${!option}"$'\n'; done
  if [ "$number" -lt "$stage" ] || [ "$number" -gt "$stop_stage" ]; then return; fi
  if [ "$force" != true ] && [ -f "$marker" ] && [ "$(cat "$marker")" = "${settings%$'\n'}" ]; then
    echo "stage $number: $title (done before)"
    return
  fi
  echo "stage $number: $title"
  mkdir -p data/.done
  for later in data/.done/*; do
    if [ -f "$later" ] && [ "${later##*/}" -ge "$number" ]; then rm "$later"; fi
  done
  local start=$SECONDS
  "$body"
  printf '%s' "$settings" >"$marker.new"
  mv "$marker.new" "$marker"
  echo "stage $number: finished in $((SECONDS - start)) s"
}

parse_options "$@"
need_python
