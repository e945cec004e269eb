#!/usr/bin/env bash
# Prepare speechocean762: 5.6 hours of English read by 250 speakers of Mandarin, half of them children.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --vocab-size V     SentencePiece units, in data/lang_bpe_V (128)
#
# --corpus-dir is the folder speechocean762, in which train/, test/ and WAVE/ are.

vocab_size=128
coded_share=0.1
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"

allowed=(--shared-texts allowed)

download() {
  run_local download_archive "$mirror/101/speechocean762.tar.gz" --target-dir "$download_dir"
}

manifests() {
  python3 local/build_manifests.py --corpus-dir "${corpus_dir:-$download_dir/speechocean762}" \
    --output-dir data/manifests
}

prepare_corpus
