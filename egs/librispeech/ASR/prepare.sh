#!/usr/bin/env bash
# Prepare LibriSpeech: 960 hours of read English, or 100 of them, and its four evaluation sets.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --hours 100|960    what to train on: train-clean-100, or all three training parts (960)
#   --vocab-size V     SentencePiece units, in data/<hours>/lang_bpe_V (500)
#
# --corpus-dir is the folder LibriSpeech, in which dev-clean and the other parts are. All that is made is in
# data/<hours>, so that both amounts can be prepared. --ngram-order is 2, --thorough false: reading everything once more
# takes hours. Without a decoding graph, which only searches over words need: --stop-stage 7.

hours=960
vocab_size=500
ngram_order=2
thorough=false
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"

case "$hours" in
  100) train_parts=(train-clean-100) ;;
  960) train_parts=(train-clean-100 train-clean-360 train-other-500) ;;
  *) fail "--hours is '$hours': give 100 or 960" ;;
esac
data="data/$hours"
splits=(train dev-clean dev-other test-clean test-other)
allowed=(--shared-texts allowed --max-duration 40)

download() {
  openslr librispeech "${train_parts[@]}" "${splits[@]:1}"
}

manifests() {
  python3 local/build_manifests.py --corpus-dir "${corpus_dir:-$download_dir/LibriSpeech}" --output-dir "$data/manifests" \
    --train-parts "${train_parts[@]}" --test-parts "${splits[@]:1}" --num-jobs "$num_jobs"
}

prepare_corpus
