#!/usr/bin/env bash
# Prepare Asterisk's English prompts: 22 minutes of one voice, from Debian's packages, unpacked without root.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --stage N          first stage to run (0)
#   --stop-stage N     last stage to run (all)
#   --force true       run stages that are done, too
#   --corpus-dir DIR   a folder that holds the unpacked packages' usr/; nothing is downloaded
#   --vocab-size V     SentencePiece units, in data/lang_bpe_V (64)
#   --ngram-order N    words of the language model's longest n-grams (3)
#   --ctc-topology standard|modified   of the decoding graph; modified is smaller from 500 units on (standard)
#   --num-jobs J       processes that compute features (1: fastest on so few recordings)
#   --feature-extractor lhotse|kaldifeat
#
# Stages: 0 download, 1 manifests, 2 check of the recordings, 3 features, 4 tokenizer, 5 check of the cuts, 6 lexicon,
# 7 n-gram, 8 decoding graph.

corpus_dir=
vocab_size=64
ngram_order=3
ctc_topology=standard
num_jobs=1
feature_extractor=lhotse

. "$(dirname "${BASH_SOURCE[0]}")/../../../local/stages.sh" "$@"
corpus_dir="$(from_start "$corpus_dir")"
lang_dir="data/lang_bpe_$vocab_size"

download() {
  if [ -n "$corpus_dir" ]; then
    echo "using $corpus_dir"
    return
  fi
  ./local/download.sh download asterisk-core-sounds-en-wav asterisk-core-sounds-en
}

manifests() {
  python3 local/build_manifests.py --corpus-dir "${corpus_dir:-download}" --output-dir data/manifests
}

check_recordings() {
  python3 ../../../local/validate_cuts.py --manifest-dir data/manifests --read-audio
}

features() {
  python3 ../../../local/compute_fbank.py --num-jobs "$num_jobs" --feature-extractor "$feature_extractor"
}

tokenizer() {
  python3 ../../../local/train_tokenizer.py --vocab-size "$vocab_size" --lang-dir "$lang_dir"
}

check_cuts() {
  python3 ../../../local/validate_cuts.py --manifest-dir data/fbank --lang-dir "$lang_dir" --read-features
}

lexicon() {
  python3 ../../../local/prepare_lang.py --lang-dir "$lang_dir"
}

ngram() {
  python3 ../../../local/train_ngram.py --order "$ngram_order" --lang-dir "$lang_dir"
}

graph() {
  python3 ../../../local/build_graph.py --ctc-topology "$ctc_topology" --lang-dir "$lang_dir"
}

stage 0 "Get the recordings and their texts" download corpus_dir
stage 1 "Manifests and splits" manifests corpus_dir data/manifests/cuts_{train,dev,test}.jsonl.gz
stage 2 "Check the recordings" check_recordings
stage 3 "Features" features feature_extractor data/fbank/cuts_{train,dev,test}.jsonl.gz
stage 4 "Tokenizer" tokenizer vocab_size "$lang_dir"/{bpe.model,tokens.txt}
stage 5 "Check the cuts" check_cuts
stage 6 "Lexicon" lexicon vocab_size "$lang_dir"/{words.txt,lexicon.txt,L.npz,L_disambig.npz}
stage 7 "n-gram" ngram vocab_size ngram_order "$lang_dir/G.arpa"
stage 8 "Decoding graph" graph vocab_size ngram_order ctc_topology "$lang_dir/HLG_$ctc_topology.npz"
