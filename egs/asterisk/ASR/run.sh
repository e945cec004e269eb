#!/usr/bin/env bash
# The whole story in one command: prepare, train `base`, decode, release, transcribe. Killed, it goes on where it was.
#
# Usage: ./run.sh [option of ./train.py...]       e.g. ./run.sh --num-epochs 5

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
zoo_dir=../../../zoo
name=asterisk-en-base

step() { printf '\n== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

step 'Prepare the speech'
./prepare.sh

step 'Train'
./train.py --config base --resume true "$@"

step 'Decode the test set by every method'
./decode.py --config base --avg 10 --decoding-method all

step 'Release the model into the zoo'
./export.py --config base --avg 10 --zoo-dir "$zoo_dir" --name "$name" --overwrite

step 'Transcribe with the released model'
python3 -m shared_moe_conformer.transcribe --model "$zoo_dir/$name" "$zoo_dir/$name/test.wav"

step 'Done'
