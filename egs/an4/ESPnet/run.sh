#!/usr/bin/env bash
# AN4 by ESPnet2: its trainer, search and packer, with this package's encoder. Killed, it goes on where it was.
#
# Usage: ./run.sh [--name value ...]
#
#   --stage N          first stage to run (0)
#   --stop-stage N     last stage to run (all)
#   --force true       run stages that are done, too
#   --corpus-dir DIR   folder that holds an4/, where it is here already; otherwise ../ASR/prepare.sh downloads it
#   --vocab-size V     SentencePiece units (@vocab_size)
#   --config FILE      of the training (@config)
#   --exp-dir DIR      folder of the experiment (@exp_dir)
#
# Stages: 0 recordings and texts, 1 Kaldi folders, 2 units, 3 statistics, 4 training, 5 decoding, 6 scores, 7 packing.

corpus_dir=
vocab_size=64
config=conf/train_shared.yaml
exp_dir=exp/shared
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/stages.sh" "$@"

units=data/bpe_$vocab_size
stats=data/stats
model=valid.cer_ctc.ave.pth # the mean of the best epochs

# A module of ESPnet that knows the encoder.
espnet() {
  python3 -m shared_moe_conformer.espnet -m "espnet2.bin.$1" "${@:2}"
}

corpus() {
  local here=()
  if [ -n "$corpus_dir" ]; then here=(--corpus-dir "$(from_start "$corpus_dir")"); fi
  ../ASR/prepare.sh --stop-stage 1 "${here[@]}"
}

folders() {
  python3 local/make_folders.py
}

make_units() {
  mkdir -p "$units"
  cut -d ' ' -f 2- data/train/text >"$units/train.txt"
  python3 -c 'import sentencepiece, sys; sentencepiece.SentencePieceTrainer.train(input=sys.argv[1],
    model_prefix=sys.argv[2], vocab_size=int(sys.argv[3]), model_type="bpe", minloglevel=1)' \
    "$units/train.txt" "$units/bpe" "$vocab_size"
  python3 -m espnet2.bin.tokenize_text --token_type bpe --bpemodel "$units/bpe.model" --input "$units/train.txt" \
    --output "$units/tokens.txt" --write_vocabulary true \
    --add_symbol '<blank>:0' --add_symbol '<unk>:1' --add_symbol '<sos/eos>:-1'
}

# The options that collecting statistics and training share.
trainer() {
  local split kind
  local inputs=(--token_type bpe --bpemodel "$units/bpe.model" --token_list "$units/tokens.txt")
  for kind in train valid; do
    split="${kind/valid/dev}"
    inputs+=(--"${kind}_data_path_and_name_and_type" "data/$split/wav.scp,speech,sound")
    inputs+=(--"${kind}_data_path_and_name_and_type" "data/$split/text,text,text")
  done
  espnet asr_train --config "$config" --use_preprocessor true "${inputs[@]}" "$@"
}

statistics() {
  trainer --collect_stats true --output_dir "$stats" --normalize none \
    --train_shape_file data/train/wav.scp --valid_shape_file data/dev/wav.scp
}

train() {
  trainer --output_dir "$exp_dir" --resume true \
    --normalize global_mvn --normalize_conf "stats_file=$stats/train/feats_stats.npz" \
    --train_shape_file "$stats/train/speech_shape" --train_shape_file "$stats/train/text_shape" \
    --valid_shape_file "$stats/valid/speech_shape" --valid_shape_file "$stats/valid/text_shape"
}

decode() {
  local split
  for split in dev test; do
    espnet asr_inference --config conf/decode.yaml --output_dir "$exp_dir/decode_$split" \
      --asr_train_config "$exp_dir/config.yaml" --asr_model_file "$exp_dir/$model" \
      --data_path_and_name_and_type "data/$split/wav.scp,speech,sound"
  done
}

score() {
  local split
  for split in dev test; do
    python3 local/score.py --ref "data/$split/text" --hyp "$exp_dir/decode_$split/1best_recog/text"
  done
}

pack() {
  python3 -m espnet2.bin.pack asr --outpath "$exp_dir/model.zip" --asr_train_config "$exp_dir/config.yaml" \
    --asr_model_file "$exp_dir/$model" --option "$units/bpe.model" --option "$stats/train/feats_stats.npz"
  python3 local/check_packed.py --model "$exp_dir/model.zip" --wav data/dev/wav.scp \
    --hyp "$exp_dir/decode_dev/1best_recog/text"
}

stage 0 'Recordings and texts' corpus corpus_dir
stage 1 'Kaldi folders' folders data/{train,dev,test}/{wav.scp,text}
stage 2 'Units' make_units vocab_size "$units/bpe.model" "$units/tokens.txt"
stage 3 'Statistics' statistics config "$stats/train/feats_stats.npz"
stage 4 'Training' train config exp_dir "$exp_dir/$model"
stage 5 'Decoding' decode exp_dir "$exp_dir"/decode_{dev,test}/1best_recog/text
stage 6 'Scores' score exp_dir
stage 7 'Packing' pack exp_dir "$exp_dir/model.zip"
