#!/usr/bin/env bash
# Prepare Asterisk's English prompts: 21 minutes of one voice, from Debian's packages, unpacked without root.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --vocab-size V     SentencePiece units, in data/lang_bpe_V (64)
#
# --corpus-dir is a folder that holds the unpacked packages' usr/; --num-jobs 1 is fastest on so few recordings.

vocab_size=64
ctc_topology=standard
sampling_rate=8000
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"

download() {
  ../../../local/download_debian.sh "$download_dir" asterisk-core-sounds-en-wav asterisk-core-sounds-en
}

manifests() {
  python3 local/build_manifests.py --corpus-dir "${corpus_dir:-$download_dir}" --output-dir data/manifests
}

prepare_corpus
