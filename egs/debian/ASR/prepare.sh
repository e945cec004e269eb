#!/usr/bin/env bash
# Prepare all speech of Debian's packages, 18 hours in 13 languages, without root.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --nonfree true|false   with the dialogues of uqm, 11 hours of Debian's component non-free, whose licence forbids
#                          commercial use; what is made is in data/all, without them in data/free (true)
#   --vocab-size V         SentencePiece units of all languages together, in lang_bpe_V there (256)
#
# --corpus-dir is a folder that holds the usr/ of all packages, unpacked.

vocab_size=256
nonfree=true
ctc_topology=standard
sampling_rate=8000
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"
[[ "$nonfree" =~ ^(true|false)$ ]] || fail "--nonfree is '$nonfree': give true or false"

data=data/free
if [ "$nonfree" = true ]; then data=data/all; fi
audio_options=(sampling_rate)

asterisk=(en es fr it ru)
fillets=(cs nl)

download() {
  local language packages=(festvox-ru tuxpaint-stamps-default fillets-ng-data) components=()
  for language in "${asterisk[@]}"; do
    packages+=("asterisk-core-sounds-$language" "asterisk-core-sounds-$language-wav")
  done
  for language in "${fillets[@]}"; do packages+=("fillets-ng-data-$language"); done
  if [ "$nonfree" = true ]; then
    packages+=(uqm-voice uqm-content)
    components=(--components "contrib non-free")
  fi
  "$LOCAL/download_debian.sh" "$download_dir" "${components[@]}" "${packages[@]}"
}

# Usage: corpus NAME RECIPE [OPTION...]: the manifests of one corpus by its recipe's program, in $data/corpora/NAME.
corpus() {
  local name="$1" program="$2"
  shift 2
  echo "$name"
  python3 "$program" --corpus-dir "${corpus_dir:-$download_dir}" --output-dir "$data/corpora/$name" "$@"
}

manifests() {
  local language
  rm -rf "$data/corpora"
  for language in "${asterisk[@]}"; do
    corpus "asterisk-$language" ../../asterisk/ASR/local/build_manifests.py --language "$language"
  done
  for language in "${fillets[@]}"; do
    corpus "fillets-$language" ../../fillets/ASR/local/build_manifests.py --language "$language" \
      --audio-dir "data/audio/fillets-$language"
  done
  corpus festvox-ru local/build_festvox_ru.py --audio-dir data/audio/festvox-ru --sampling-rate "$sampling_rate"
  corpus tuxpaint local/build_tuxpaint.py --audio-dir data/audio/tuxpaint --sampling-rate "$sampling_rate"
  if [ "$nonfree" = true ]; then
    corpus uqm ../../uqm/ASR/local/build_manifests.py --audio-dir data/audio/uqm --sampling-rate 11000
  fi
  python3 local/join_corpora.py --corpora-dir "$data/corpora" --output-dir "$data/manifests"
}

# The training cuts of each corpus, for the weights of --train-cuts.
sources() {
  python3 local/split_by_corpus.py --manifest-dir "$data/fbank" --output-dir "$data/sources"
}

prepare_corpus
stage 10 "Sources of the training" sources "$data"/sources/{asterisk,festvox,fillets,tuxpaint}.jsonl
