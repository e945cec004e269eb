#!/usr/bin/env bash
# The whole story in one command: prepare, train `merged`, tune, decode, release, transcribe. Started again, it continues.
#
# Usage: ./run.sh [--num-epochs N] [other option of ./train.py...]
#
# The weights of the last third of the epochs are averaged. The model goes to zoo/asterisk-en in the clone.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

num_epochs=24
if [ "${1:-}" = --num-epochs ]; then
  num_epochs="$2"
  shift 2
fi
avg=$((num_epochs < 3 ? 1 : num_epochs / 3))
root="$(cd ../../.. && pwd)"
model=asterisk-en

step() { printf '\n== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

step 'Prepare the speech'
./prepare.sh

step 'Train'
# one thread: for a model this small a second one gains a seventh, and loses far more on a machine that is busy
./train.py --config merged --resume true --num-epochs "$num_epochs" --num-threads 1 "$@"

step 'Choose scales, penalties and beam sizes on the dev set'
for method in greedy_search modified_beam_search 1best; do
  ./decode.py --config merged --epoch "$num_epochs" --avg "$avg" --decoding-method "$method" --tune dev
done

step 'Decode the test set by every method'
./decode.py --config merged --epoch "$num_epochs" --avg "$avg" --decoding-method all

step 'Release the model'
./export.py --config merged --epoch "$num_epochs" --avg "$avg" --zoo-dir "$root/zoo" --name "$model" --overwrite

step 'Results'
python3 -m shared_moe_conformer.params config.py
cat "exp/merged/comparison-test-epoch-$num_epochs-avg-$avg.txt"
cd "$root"
echo "The model is zoo/$model. Its test recording, transcribed by:"
echo "  python -m shared_moe_conformer.transcribe --model zoo/$model zoo/$model/test.wav"
python3 -m shared_moe_conformer.transcribe --model "zoo/$model" "zoo/$model/test.wav"
cat "zoo/$model/test.txt"
step 'Done'
