# Sourced by a recipe's prepare.sh instead of stages.sh, once its own options have their defaults: the stages that every
# corpus goes through. The recipe then defines the functions `download` and `manifests`, and calls `prepare_corpus`:
#
#   vocab_size=500                                           # an option of the recipe, and its default
#   . "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"
#   splits=(train dev-clean test-clean)                      # what differs from the settings below
#   download() { openslr librispeech; }                      # not called where --corpus-dir is given
#   manifests() { ...; }                                     # writes $data/manifests/cuts_<split>.jsonl.gz
#   prepare_corpus
#
#: Options of every corpus:
#:
#:   --stage N          first stage to run (0)
#:   --stop-stage N     last stage to run (all)
#:   --force true       run stages that are done, too
#:   --corpus-dir DIR   the corpus, where it is here already; nothing of it is downloaded
#:   --download-dir DIR where it is downloaded to otherwise (download)
#:   --mirror URL       of what OpenSLR has (http://www.openslr.org/resources)
#:   --perturb-speed false    train on the recordings alone; true: on copies at 0.9 and 1.1 times their speed, too (true)
#:   --coded-share P    share of the training cuts that are coded by Opus, or for a telephone, before their features are
#:                      computed (@coded_share)
#:   --exact-evaluation true|false   store features of the splits that are not trained on to 1e-5, so that decode.py says
#:                      what the released model says; otherwise to 1/64, as training's, in 0.4 of the space (true)
#:   --sampling-rate R  of the features, in Hz; ./train.py needs the same, where it is not the recipe's (@sampling_rate)
#:   --musan DIR|download     prepare MUSAN's noises, too, for ./train.py --noise-manifest (none)
#:   --ngram-order N    words of the language model's longest n-grams (@ngram_order)
#:   --ctc-topology standard|modified|auto   of the decoding graph; auto: modified, which is smaller, from 500 units
#:                      on (@ctc_topology)
#:   --thorough true|false    read all recordings and all features when they are checked (@thorough)
#:   --drop-faulty true|false   leave faulty cuts out of the training split and name them, instead of stopping (false)
#:   --check-sample N   recordings, and features, of each split that are read when they are checked; 0: all (0)
#:   --num-jobs J       processes that compute features (1)
#:   --dask ADDRESS     Dask scheduler whose workers compute them instead, as tcp://host:8786; each machine has this
#:                      folder at the same path (none)
#:   --num-pieces N     machines that share this folder, each of which computes a piece of the features once the first
#:                      three stages are done: ./prepare.sh --num-pieces 64 --piece 7; then run the rest on one (1)
#:   --piece K          number of the piece, from 1 (1)
#:   --feature-extractor lhotse|kaldifeat   who computes features (@feature_extractor)
#:
#: Stages: 0 download, 1 manifests, 2 check of the recordings, 3 features, 4 tokenizer, 5 check of the cuts, 6 lexicon,
#: 7 n-grams, 8 decoding graph, 9 n-grams over tokens.

corpus_dir=
download_dir=download
mirror=http://www.openslr.org/resources
perturb_speed=true
coded_share="${coded_share:-0}"
exact_evaluation=true
sampling_rate="${sampling_rate:-16000}"
musan=
ngram_order="${ngram_order:-3}"
ctc_topology="${ctc_topology:-auto}"
thorough="${thorough:-true}"
drop_faulty=false
check_sample=0
num_jobs=1
dask=
num_pieces=1
piece=1
feature_extractor=lhotse

LOCAL="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
COMMON_HELP="$LOCAL/corpus_stages.sh"
. "$LOCAL/stages.sh" "$@"
corpus_dir="$(from_start "$corpus_dir")"
[ "$download_dir" = download ] || download_dir="$(from_start "$download_dir")"
[ "$musan" = download ] || musan="$(from_start "$musan")"
need_numbers ngram_order check_sample num_jobs num_pieces piece
[[ "$ctc_topology" =~ ^(standard|modified|auto)$ ]] ||
  fail "--ctc-topology is '$ctc_topology': give standard, modified or auto"
[[ "$sampling_rate" =~ ^[1-9][0-9]{1,3}00$ && "$sampling_rate" -ge 8000 ]] ||
  fail "--sampling-rate is '$sampling_rate': give 8000 Hz or more, in hundreds"

# What a recipe may set otherwise before it calls prepare_corpus.
data=data                  # folder of all that is made
splits=(train dev test)    # the first one is trained on
unit=bpe                   # or char
allowed=()                 # options of validate_cuts.py
audio_options=()           # names of options that the audio of the manifests depends on

run_local() {
  local program="$1"
  shift
  python3 "$LOCAL/$program.py" "$@"
}

# Usage: openslr CORPUS [PART...]
openslr() {
  run_local download_openslr "$@" --mirror "$mirror" --target-dir "$download_dir"
}

# The files of the cut sets in a folder of $data.
cuts_in() {
  printf "$data/$1/cuts_%s.jsonl.gz\n" "${splits[@]}"
}

get_corpus() {
  if [ -n "$corpus_dir" ]; then echo "using $corpus_dir"; else download; fi
  if [ "$musan" = download ]; then openslr musan; fi
}

make_manifests() {
  manifests
  if [ -n "$musan" ]; then
    run_local prepare_musan --corpus-dir "${musan/#download/$download_dir/musan}" --output-dir "$data/manifests"
  fi
}

check() {
  local drop=()
  if [ "$drop_faulty" = true ]; then drop=(--drop-faulty); fi
  run_local validate_cuts --sample "$check_sample" --splits "${splits[@]}" "${allowed[@]}" "${drop[@]}" "$@"
}

check_recordings() {
  local read=()
  if [ "$thorough" = true ]; then read=(--read-audio); fi
  check --manifest-dir "$data/manifests" "${read[@]}"
}

features() {
  local speeds=() noises=() exact=()
  if [ "$perturb_speed" = true ]; then speeds=(0.9 1.1); fi
  if [ "$exact_evaluation" = true ]; then exact=("${splits[@]:1}"); fi
  if [ -n "$musan" ]; then noises=(musan); fi
  run_local compute_fbank --manifest-dir "$data/manifests" --output-dir "$data/fbank" --num-jobs "$num_jobs" \
    --dask "$dask" --feature-extractor "$feature_extractor" --sampling-rate "$sampling_rate" \
    --splits "${splits[@]}" "${noises[@]}" --exact-splits "${exact[@]}" --perturbed-splits "${splits[0]}" \
    --speeds "${speeds[@]}" --coded-share "$coded_share" "$@"
}

# Computes one piece of the features; stage 3 is not done with it.
one_piece() {
  local made
  for made in $(cuts_in manifests); do
    [ -e "$made" ] || fail "no $made: run ./prepare.sh --stop-stage 2 on one machine first"
  done
  features --num-pieces "$num_pieces" --piece "$piece"
}

tokenizer() {
  local size=()
  if [ "$unit" = bpe ]; then size=(--vocab-size "$vocab_size"); fi
  run_local train_tokenizer --manifest-dir "$data/manifests" --lang-dir "$lang_dir" "${size[@]}" \
    --split "${splits[0]}" --covered-splits "${splits[@]:1}"
}

check_cuts() {
  local read=()
  if [ "$thorough" = true ]; then read=(--read-features); fi
  check --manifest-dir "$data/fbank" --lang-dir "$lang_dir" "${read[@]}"
}

lexicon() {
  run_local prepare_lang --manifest-dir "$data/manifests" --split "${splits[0]}" --lang-dir "$lang_dir" \
    --held-out-splits "${splits[@]:1}"
}

ngram() {
  local words=(--manifest-dir "$data/manifests" --split "${splits[0]}" --lang-dir "$lang_dir")
  run_local train_ngram "${words[@]}" --order "$ngram_order"
  run_local train_ngram "${words[@]}" --order 4 --name G_4_gram.arpa
}

graph() {
  run_local build_graph --ctc-topology "$ctc_topology" --lang-dir "$lang_dir"
}

token_ngrams() {
  local order
  for order in 2 3; do
    run_local train_ngram --manifest-dir "$data/manifests" --unit token --order "$order" --lang-dir "$lang_dir"
  done
}

# Audio that was replaced under the same names: its manifests, its features and all that follows are made again.
forget_replaced() {
  local told
  if ! compgen -G "$data/fbank/audio_*.jsonl" >/dev/null; then return 0; fi
  told="$(run_local replaced_audio --manifest-dir "$data/fbank")"
  if [ -z "$told" ]; then return 0; fi
  forget_stages_from 1
  if [ "$stage" -le 1 ]; then
    echo "$told: all is made again from stage 1 on"
  else
    echo "$told: run ./prepare.sh without --stage afterwards"
  fi
}

prepare_corpus() {
  local made coded=()
  vocab_size="${vocab_size:-}"
  lang_dir="$data/lang_$unit${vocab_size:+_$vocab_size}"
  MARKERS="$data/.done"
  made=("$lang_dir/LG.safetensors")
  if [ "$ctc_topology" != auto ]; then made+=("$lang_dir/HLG_$ctc_topology.safetensors"); fi
  if [ "$num_pieces" -gt 1 ]; then
    echo "stage 3: Features, piece $piece of $num_pieces"
    one_piece
    exit 0
  fi
  forget_replaced
  stage 0 "Get the recordings and their texts" get_corpus corpus_dir musan
  stage 1 "Manifests and splits" make_manifests corpus_dir musan "${audio_options[@]}" $(cuts_in manifests)
  stage 2 "Check the recordings" check_recordings
  if [ "$coded_share" != 0 ]; then coded=(coded_share); fi
  stage 3 "Features" features feature_extractor perturb_speed "${coded[@]}" exact_evaluation sampling_rate \
    $(cuts_in fbank)
  stage 4 "Tokenizer" tokenizer vocab_size "$lang_dir"/{bpe.model,tokens.txt}
  stage 5 "Check the cuts" check_cuts
  stage 6 "Lexicon" lexicon vocab_size "$lang_dir"/{words,lexicon}.txt
  stage 7 "n-grams, for the graph and for rescoring" ngram vocab_size ngram_order "$lang_dir"/{G,G_4_gram}.arpa
  stage 8 "Decoding graph" graph vocab_size ngram_order ctc_topology "${made[@]}"
  stage 9 "n-grams over tokens" token_ngrams vocab_size "$lang_dir"/token_{2,3}gram.arpa
}
