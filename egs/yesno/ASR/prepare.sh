#!/usr/bin/env bash
# Prepare the yesno corpus: sixty recordings of eight words each, the Hebrew for yes or no, by one man.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --vocab-size V     SentencePiece units, in data/lang_bpe_V (14: in which YES and NO are one unit each)
#
# --corpus-dir is the folder waves_yesno with its sixty wav files.

vocab_size=14
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"

download() {
  openslr yesno
}

manifests() {
  python3 local/build_manifests.py --corpus-dir "${corpus_dir:-$download_dir/waves_yesno}" --output-dir "$data/manifests"
}

prepare_corpus
