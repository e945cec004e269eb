#!/usr/bin/env bash
# Prepare AN4: 48 minutes of 84 speakers who spell letters and say numbers, dates and commands.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --vocab-size V     SentencePiece units, in data/lang_bpe_V (64)
#   --archive-url URL  CMU's archive; its raw and its SPHERE files do (@archive_url)
#
# --corpus-dir is the folder that holds an4/, in which etc/ and wav/ are.

vocab_size=64
ctc_topology=standard
coded_share=0.1
archive_url=http://www.speech.cs.cmu.edu/databases/an4/an4_raw.bigendian.tar.gz
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"

allowed=(--shared-texts allowed)

download() {
  run_local download_archive "$archive_url" --target-dir "$download_dir"
}

manifests() {
  python3 local/build_manifests.py --corpus-dir "${corpus_dir:-$download_dir}" --audio-dir data/audio \
    --output-dir data/manifests
}

prepare_corpus
