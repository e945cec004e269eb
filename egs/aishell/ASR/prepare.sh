#!/usr/bin/env bash
# Prepare AISHELL-1: 178 hours of read Mandarin. The units are characters, and each character is a word.
#
# Usage: ./prepare.sh [--name value ...]
#
# --corpus-dir is the folder that holds data_aishell/, in which transcript/ and wav/ are, the latter with the archives of
# the speakers or with what is in them: archives are unpacked into download/aishell. How many units the transcripts have
# is printed; config.py says 4,233. --thorough is false: reading all recordings and features once more takes hours.

thorough=false
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"

unit=char
allowed=(--shared-texts allowed)

download() {
  openslr aishell
}

manifests() {
  python3 local/build_manifests.py --corpus-dir "${corpus_dir:-$download_dir/aishell}" \
    --unpacked-dir "$download_dir/aishell" --output-dir "$data/manifests"
}

prepare_corpus
