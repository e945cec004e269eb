#!/usr/bin/env bash
# Prepare the dialogues of the game The Ur-Quan Masters: 11 hours of acted English, from Debian's packages, without root.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --vocab-size V     SentencePiece units, in data/lang_bpe_V (256)
#
# The packages are in Debian's component non-free; nothing of the system is changed to read it. --corpus-dir is a folder
# that holds the unpacked packages' usr/.

vocab_size=256
sampling_rate=11000
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"

splits=(train dev dev-new-voices test test-new-voices test-dialogues)
allowed=(--whole-splits test-dialogues)
audio_options=(sampling_rate)

download() {
  "$LOCAL/download_debian.sh" "$download_dir" --components "contrib non-free" uqm-voice uqm-content
}

manifests() {
  python3 local/build_manifests.py --corpus-dir "${corpus_dir:-$download_dir}" --audio-dir data/audio \
    --sampling-rate "$sampling_rate" --output-dir data/manifests
}

prepare_corpus
