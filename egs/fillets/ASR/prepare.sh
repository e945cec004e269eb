#!/usr/bin/env bash
# Prepare the dialogues of the game Fish Fillets NG, 1.5 hours in each language, from Debian's packages, without root.
#
# Usage: ./prepare.sh [--name value ...]
#
#   --language nl|cs   Dutch, two voices; or Czech, two main voices and 47 others (nl)
#   --vocab-size V     SentencePiece units, in data/<language>/lang_bpe_V (64)
#
# What is made is in data/<language>. --corpus-dir is a folder that holds the unpacked packages' usr/.

language=nl
vocab_size=64
ctc_topology=standard
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"
[[ "$language" =~ ^(nl|cs)$ ]] || fail "--language is '$language': give nl or cs"
data="data/$language"

download() {
  "$LOCAL/download_debian.sh" "$download_dir/$language" fillets-ng-data "fillets-ng-data-$language"
}

manifests() {
  python3 local/build_manifests.py --language "$language" --corpus-dir "${corpus_dir:-$download_dir/$language}" \
    --audio-dir "$data/audio" --output-dir "$data/manifests"
}

prepare_corpus
