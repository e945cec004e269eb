# Sourced by every recipe's prepare.sh, whose folder it makes the working folder, once the options have their defaults:
#
#   vocab_size=500                                    # the option --vocab-size, and its default
#   . "$(dirname "${BASH_SOURCE[0]}")/../../../local/stages.sh" "$@"
#   stage 0 "Download" download                       # runs the function `download`
#   stage 1 "Tokenizer" tokenizer vocab_size data/lang/bpe.model
#
# Strict mode; --stage N, --stop-stage N, --force true, --help; every variable in lower case that is set before is an
# option `--name value` (the habit is icefall's parse_options.sh), whose value the help shows where it says (@name). A
# stage that ends leaves data/.done/N and is skipped by the next run, unless one of the options it names has changed or
# one of the files it names (words with a slash) is gone. A stage that runs makes all later ones run again; one that
# fails or is killed leaves no mark.

set -euo pipefail

START_DIR="$PWD"
cd "$(dirname "$0")"

stage=0
stop_stage=100
force=false
MARKERS=data/.done

# A path that the user gave, seen from the folder in which the program was started.
from_start() {
  case "$1" in
    "" | /*) echo "$1" ;;
    *) echo "$START_DIR/$1" ;;
  esac
}

fail() {
  echo "error: $*" >&2
  exit 1
}

show_help() {
  local line
  {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${0##*/}"
    if [ -n "${COMMON_HELP:-}" ]; then echo && sed -n 's/^#: \{0,1\}//p' "$COMMON_HELP"; fi
  } | while IFS= read -r line; do
    if [[ "$line" =~ \(@([a-z_]+)\) ]]; then line="${line/"${BASH_REMATCH[0]}"/(${!BASH_REMATCH[1]})}"; fi
    printf '%s\n' "$line"
  done
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
    [[ "$name" =~ ^[a-z][a-z_0-9]*$ && -n "${!name+set}" ]] || fail "no option $1: see $0 --help"
    [ $# -ge 2 ] || fail "$1 needs a value"
    [[ ! "${!name}" =~ ^(true|false)$ || "$2" =~ ^(true|false)$ ]] || fail "$1 is '$2': give true or false"
    printf -v "$name" '%s' "$2"
    shift 2
  done
  need_numbers stage stop_stage
}

# Usage: need_numbers OPTION...
need_numbers() {
  local name
  for name in "$@"; do
    [[ "${!name}" =~ ^[0-9]+$ ]] || fail "--${name//_/-} is '${!name}': give a number"
  done
}

need_python() {
  command -v python3 >/dev/null || fail "python3 is not on the PATH: run make install and activate its environment"
  python3 -c 'import shared_moe_conformer, lhotse, sentencepiece' 2>/dev/null ||
    fail "$(command -v python3) cannot import shared_moe_conformer and lhotse: run make install and activate its environment"
}

# The values of a stage's options, one a line: what its marker must hold to be skipped.
settings_of() {
  local word
  for word in "$@"; do
    if [[ "$word" != */* ]]; then echo "$word=${!word}"; fi
  done
}

have_outputs() {
  local word
  for word in "$@"; do
    if [[ "$word" == */* && ! -e "$word" ]]; then return 1; fi
  done
}

forget_stages_from() {
  local marker
  for marker in "$MARKERS"/*; do
    if [ -f "$marker" ] && [ "${marker##*/}" -ge "$1" ]; then rm "$marker"; fi
  done
}

# Usage: stage NUMBER TITLE FUNCTION [OPTION or OUTPUT...]
stage() {
  local number="$1" title="$2" body="$3" settings marker="$MARKERS/$1" start=$SECONDS
  shift 3
  if [ "$number" -lt "$stage" ] || [ "$number" -gt "$stop_stage" ]; then return 0; fi
  settings="$(settings_of "$@")"
  if [ "$force" != true ] && [ -f "$marker" ] && [ "$(cat "$marker")" = "$settings" ] && have_outputs "$@"; then
    echo "stage $number: $title (done before)"
    return 0
  fi
  echo "stage $number: $title"
  mkdir -p "$MARKERS"
  forget_stages_from "$number"
  "$body"
  have_outputs "$@" || fail "stage $number ended without one of its outputs: $*"
  { echo "$settings" >"$MARKERS/.new"; } 2>/dev/null && mv "$MARKERS/.new" "$marker" ||
    fail "$marker cannot be written: make room there, then run this again"
  echo "stage $number: finished in $((SECONDS - start)) s"
}

parse_options "$@"
need_python
