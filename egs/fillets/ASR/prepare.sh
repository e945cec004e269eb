#!/usr/bin/env bash
# Prepare the dialogues of the game Fish Fillets NG, 1.5 hours in each language, from Debian's packages, without root.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --language nl|cs   Dutch, two voices; or Czech, two main voices and 46 others (nl)
#   --stage N          first stage to run (0)
#   --stop-stage N     last stage to run (all)
#   --force true       run stages that are done, too
#   --corpus-dir DIR   a folder that holds the unpacked packages' usr/; nothing is downloaded
#   --vocab-size V     SentencePiece units, in data/<language>/lang_bpe_V (64)
#   --ngram-order N    words of the language model's longest n-grams (3)
#   --ctc-topology standard|modified   of the decoding graph; modified is smaller from 500 units on (standard)
#   --num-jobs J       processes that compute features (1)
#   --feature-extractor lhotse|kaldifeat
#
# Stages: 0 download, 1 manifests and 16 kHz audio, 2 check of the recordings, 3 features, 4 tokenizer, 5 check of the
# cuts, 6 lexicon, 7 n-gram, 8 decoding graph. What they make is in data/<language>.

language=nl
corpus_dir=
vocab_size=64
ngram_order=3
ctc_topology=standard
num_jobs=1
feature_extractor=lhotse

. "$(dirname "${BASH_SOURCE[0]}")/../../../local/stages.sh" "$@"
[[ "$language" =~ ^(nl|cs)$ ]] || fail "--language is '$language': give nl or cs"
corpus_dir="$(from_start "$corpus_dir")"
data="data/$language"
lang_dir="$data/lang_bpe_$vocab_size"
download_dir="download/$language"
MARKERS="$data/.done"

download() {
  if [ -n "$corpus_dir" ]; then
    echo "using $corpus_dir"
    return
  fi
  ../../../local/download_debian.sh "$download_dir" fillets-ng-data "fillets-ng-data-$language"
}

manifests() {
  python3 local/build_manifests.py --language "$language" --corpus-dir "${corpus_dir:-$download_dir}" \
    --audio-dir "$data/audio" --output-dir "$data/manifests"
}

check_recordings() {
  python3 ../../../local/validate_cuts.py --manifest-dir "$data/manifests" --read-audio
}

features() {
  python3 ../../../local/compute_fbank.py --manifest-dir "$data/manifests" --output-dir "$data/fbank" \
    --num-jobs "$num_jobs" --feature-extractor "$feature_extractor"
}

tokenizer() {
  python3 ../../../local/train_tokenizer.py --manifest-dir "$data/manifests" --vocab-size "$vocab_size" --lang-dir "$lang_dir"
}

check_cuts() {
  python3 ../../../local/validate_cuts.py --manifest-dir "$data/fbank" --lang-dir "$lang_dir" --read-features
}

lexicon() {
  python3 ../../../local/prepare_lang.py --manifest-dir "$data/manifests" --lang-dir "$lang_dir"
}

ngram() {
  python3 ../../../local/train_ngram.py --manifest-dir "$data/manifests" --order "$ngram_order" --lang-dir "$lang_dir"
}

graph() {
  python3 ../../../local/build_graph.py --ctc-topology "$ctc_topology" --lang-dir "$lang_dir"
}

stage 0 "Get the recordings and their texts" download corpus_dir
stage 1 "Manifests, splits and 16 kHz audio" manifests corpus_dir "$data"/manifests/cuts_{train,dev,test}.jsonl.gz
stage 2 "Check the recordings" check_recordings
stage 3 "Features" features feature_extractor "$data"/fbank/cuts_{train,dev,test}.jsonl.gz
stage 4 "Tokenizer" tokenizer vocab_size "$lang_dir"/{bpe.model,tokens.txt}
stage 5 "Check the cuts" check_cuts
stage 6 "Lexicon" lexicon vocab_size "$lang_dir"/{words.txt,lexicon.txt,L.npz,L_disambig.npz}
stage 7 "n-gram" ngram vocab_size ngram_order "$lang_dir/G.arpa"
stage 8 "Decoding graph" graph vocab_size ngram_order ctc_topology "$lang_dir/HLG_$ctc_topology.npz"
