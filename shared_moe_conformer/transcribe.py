"""The verb that transcribes audio files: `python -m shared_moe_conformer.transcribe --model zoo/NAME a.wav`."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast, get_args

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.cli import Parser, add_flags, add_layers_flag, add_vad_flag, apply_flags, program, run_main
from shared_moe_conformer.config import NeuralLmType, require
from shared_moe_conformer.decoding.methods import METHODS
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.searches import resolved
from shared_moe_conformer.decoding.tuned_values import differences, not_given
from shared_moe_conformer.device import add_device_flag, choose_device, limit_threads, tune_cpu
from shared_moe_conformer.live import LiveLines, hear_microphone, read_pcm, transcribe_live
from shared_moe_conformer.params import counts_of
from shared_moe_conformer.release.transfer import add_model_flags, resolve
from shared_moe_conformer.speech.audio import warnings_of
from shared_moe_conformer.speech.files import EACH, STDIN, Input, find_audio, inputs_of, place_of, seekable
from shared_moe_conformer.speech.recognition import Channel
from shared_moe_conformer.speech.transcript import Transcript, as_ctm, as_json, as_srt, as_text, as_times, as_vtt
from shared_moe_conformer.streaming import EndpointRules
from shared_moe_conformer.text import one_line

FORMATS: dict[str, Callable[[str, Transcript], str]] = {
    "times": as_times,
    "text": as_text,
    "json": as_json,
    "ctm": as_ctm,
    "srt": as_srt,
    "vtt": as_vtt,
}
"""The function of each output format, from a file's name and its transcript to text."""
ONE_RECORDING = ("srt", "vtt")
"""Formats whose files can hold one recording only."""
USUAL_RATE = 16000
"""Rate in Hz that --live hears unless another is given."""
ONLY_LIVE = ("sampling_rate", *(field.name for field in dataclasses.fields(EndpointRules)))
"""Options that recordings do not have."""
NEURAL_LMS = get_args(NeuralLmType)
OF_MODELS = {"word_graph", "rescoring_lm", "hotwords", "token_lm", "low_order_lm"}
SEARCHES = [name for name, m in METHODS.items() if set(m.uses) <= OF_MODELS]
"""Searches that need nothing beyond what a released model may have: no transcripts, no LG."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if not (args.audio or args.live):
        parser.error("the following arguments are required: audio")
    run_main(lambda: (_transcribe_live if args.live else _transcribe_files)(args))


def transcribe_files(
    bundle: Bundle,
    inputs: Sequence[Input],
    *,
    decoding: DecodingConfig,
    vad: bool = False,
    write: Callable[[str, Transcript], None],
) -> list[str]:
    """Write each input's transcript as soon as it is ready; an error does not stop the other inputs.

    Returns:
      The names of inputs that could not be transcribed; the reasons are printed to the standard error.
    """
    failed = {}

    def report(number: int, error: Exception) -> None:
        shown, recording = inputs[number]
        failed[number], name = shown, Path(shown)
        if isinstance(recording, Channel):  # the file's own name
            name = name.with_stem(name.stem.removesuffix(f"-{recording.channel}"))
        message = str(error).replace(os.fspath(recording), str(name))
        print(f"error: {one_line(message)}", file=sys.stderr, flush=True)

    recordings = [recording for _, recording in inputs]
    transcripts = bundle.transcribe_many(recordings, decoding=decoding, vad=vad, progress=True, on_error=report)
    for number, transcript in enumerate(transcripts):
        if number not in failed:
            write(inputs[number].name, transcript)
    return list(failed.values())


def _channel(text: str) -> int | str:
    if text == EACH or text.isdecimal():
        return EACH if text == EACH else int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a channel: give a number from 0, or {EACH}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=program("transcribe"),
        description="Print what is said in audio files, and when; with --live, print speech while it is spoken.",
    )
    parser.add_argument(
        "audio",
        nargs="*",
        help="files of any sampling rate and length that libsndfile reads, or ffmpeg or PyAV if installed (m4a, webm, "
        "amr); folders, with all below them; quoted patterns ('calls/**/*.flac'); -: an audio file on the standard "
        "input",
    )
    add_model_flags(parser)
    parser.add_argument(
        "--channel",
        type=_channel,
        help="one channel of each file, from 0; each: a transcript of every channel, such as the two sides of a call "
        "[the mean of all]",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="times: text, and under it each token over its time in seconds; text: one line of text for each file; "
        "json: one object per line with tokens, words and their times; ctm: one line per word (NIST); srt, vtt: "
        "subtitles [times; with --live text]",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        help="write one file per recording there, instead of printing: a.txt for a.wav, and if there is a.mp3 as well "
        "a.wav.txt and a.mp3.txt",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="recognise speech while it is spoken, from a microphone (needs the package sounddevice) or, with -, from "
        "raw 16-bit little-endian mono samples on the standard input; the model must be trained to stream. Each "
        "segment is printed when it ends, at a pause; on a terminal its words are shown before that, in place. Ctrl-C "
        "ends it",
    )
    parser.add_argument(
        "--sampling-rate",
        type=int,
        default=argparse.SUPPRESS,
        help=f"rate of the audio that --live hears, in Hz [{USUAL_RATE}]",
    )
    add_layers_flag(parser)
    add_vad_flag(parser)
    add_device_flag(parser)
    add_flags(parser, DecodingConfig, instead=_flags_of_one_search())
    add_flags(parser, EndpointRules)
    return parser


def _flags_of_one_search() -> dict[str, dict[str, Any] | None]:
    """Differences from the flags of ./decode.py, which has a recipe's lang folder and may run several searches."""
    used = {name for search in SEARCHES for name in METHODS[search].options}
    used = used - {"lm_order"} | {"chunk_size", "left_context_frames"}
    return {f.name: None for f in dataclasses.fields(DecodingConfig) if f.name not in used} | {
        "chunk_size": {
            "help": "Encoder frames of 40 ms that are recognised together (16: 640 ms); 0: whole utterances, with "
            "--live the largest chunk that the model was trained with. [0]"
        },
        "left_context_frames": {
            "help": "With chunks: encoder frames before its chunk that a frame attends to; 0: all, with --live the "
            "most that the model was trained with. [64, with --live 0]"
        },
        "decoding_method": {"choices": SEARCHES, "help": "The search. [the model's own]"},
        "lm_type": {"choices": NEURAL_LMS, "help": "The language model over tokens that the model has."},
        "lm_scales": {
            "metavar": "FLOAT",
            "help": "Rescoring methods: scale of the language model, or of the transducer.",
        },
        "rescoring_ngram": {"help": "The n-gram: an ARPA file in the model's folder, or an absolute path."},
        "graph": {
            "help": "1best, nbest, nbest_lm_rescore, nbest_transducer_rescoring: HLG: the model's lexicon and n-gram; "
            "H: the CTC topology. [HLG]"
        },
        "lattice_engine": {
            "choices": ("auto", "k2", "embedded"),
            "help": "Lattices: the engine that searches; auto: k2 if installed, otherwise this package's own. [auto]",
        },
    }


def _transcribe_files(args: argparse.Namespace) -> None:
    for name in ONLY_LIVE:
        require(name not in args, f"--{name.replace('_', '-')} does nothing without --live: leave it out")
    tune_cpu()
    names = list(find_audio(args.audio))
    with tempfile.TemporaryDirectory() as folder:
        shown = {STDIN: "stdin"}
        copies = {name: f"{n}-{Path(shown.get(name, name)).name[-100:]}" for n, name in enumerate(names)}
        paths = {name: seekable(name, Path(folder) / copy) for name, copy in copies.items()}
        inputs = [i for name in names for i in inputs_of(paths[name], args.channel, name=shown.get(name, name))]
        with warnings_of({path: shown.get(name, name) for name, path in paths.items() if path != name}):
            _transcribe_inputs(inputs, args)


def _transcribe_inputs(inputs: Sequence[Input], args: argparse.Namespace) -> None:
    require(
        args.output_dir is not None or len(inputs) == 1 or args.format not in ONE_RECORDING,
        f"--format {args.format} holds one recording, and there are {len(inputs)}: give --output-dir",
    )
    bundle, decoding = _load(args)
    write = _writer(args, [name for name, _ in inputs])
    failed = transcribe_files(bundle, inputs, decoding=decoding, vad=args.vad, write=write)
    if failed:
        raise ValueError(f"{len(failed)} of {len(inputs)} files failed: {', '.join(failed)}")


def _transcribe_live(args: argparse.Namespace) -> None:
    require(
        args.audio in ([], [STDIN]), f"--live hears a microphone, or - the standard input, not {' '.join(args.audio)}"
    )
    require(args.output_dir is None and args.channel is None, "--live prints: it has no --output-dir and no --channel")
    require(args.format not in ONE_RECORDING, f"--live has no --format {args.format}, whose files are written whole")
    rate = getattr(args, "sampling_rate", USUAL_RATE)
    require(rate > 0, f"sampling_rate is {rate}: give a positive number of Hz")
    rules = apply_flags(EndpointRules(), args)
    tune_cpu()
    name = "stdin" if args.audio else "microphone"
    show = functools.partial(FORMATS[args.format or "text"], name)
    left_context = vars(args).pop("left_context_frames", 0) or None  # it is also one of the trained chunk size
    bundle, decoding = _load(args)
    stream = bundle.stream(
        chunk_size=decoding.chunk_size or None, left_context=left_context, decoding=decoding, rules=rules, vad=args.vad
    )
    source = (
        read_pcm(cast(BufferedIOBase, sys.stdin.buffer), sampling_rate=rate) if args.audio else hear_microphone(rate)
    )
    transcribe_live(stream, source, sampling_rate=rate, lines=LiveLines(sys.stdout, show))


def _load(args: argparse.Namespace) -> tuple[Bundle, DecodingConfig]:
    """The model and the search that the flags ask for; prints the tuned values in use."""
    device = choose_device(args.device)
    bundle = Bundle.load(resolve(args.model, zoo_dir=args.zoo_dir)).to(device)
    bundle.model.encoder.use_layers(args.num_layers)
    bundle.model.encoder.merge_once()
    limit_threads(counts_of(bundle.model)["total"].active)
    decoding, *others = _searches(bundle, args)
    require(
        not others, f"{decoding.decoding_method} needs the scale of its language model: give one, e.g. --lm-scales 0.5"
    )
    if tuned := differences([decoding], not_given(bundle.manifest.decoding_options, vars(args))):
        print(f"with the model's tuned values: {tuned}", file=sys.stderr)
    return bundle, decoding


def _searches(bundle: Bundle, args: argparse.Namespace) -> list[DecodingConfig]:
    """The searches that the flags ask for, with tuned values where no flag is given."""
    config = apply_flags(DecodingConfig(decoding_method=bundle.default_search.decoding_method), args)
    has_lm = "lm_type" in METHODS[config.decoding_method].options
    require(
        not has_lm or "lm_type" in args,
        f"{config.decoding_method} needs the kind of its language model: give --lm-type {' or '.join(NEURAL_LMS)}",
    )
    tuned = not_given(bundle.manifest.decoding_options, vars(args))
    return resolved(config, vocab_size=bundle.config.model.vocab_size, tuned=tuned)


def _writer(args: argparse.Namespace, names: Sequence[str]) -> Callable[[str, Transcript], None]:
    """The function that prints or writes a file's transcript."""
    show = FORMATS[args.format or "times"]
    if args.output_dir is None:
        return lambda name, transcript: print(show(name, transcript), flush=True)
    suffix = {"times": "txt", "text": "txt"}.get(args.format or "times", args.format)
    places = _places(names, args.audio)
    require(not args.output_dir.is_file(), f"--output-dir {args.output_dir} is a file: name a folder")
    args.output_dir.mkdir(parents=True, exist_ok=True)

    def write(name: str, transcript: Transcript) -> None:
        path = args.output_dir / f"{places[name]}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(f"{show(name, transcript)}\n".encode(errors="replace"))

    return write


def _places(names: Sequence[str], arguments: Sequence[str]) -> dict[str, Path]:
    """The path of each recording's transcript in the output folder, without the suffix of the format.

    The recording's own suffix stays where two differ in nothing else: a.wav and a.mp3.
    """
    whole = {name: place_of(name, arguments) for name in names}
    stems = Counter(place.with_suffix("") for place in whole.values())
    places = {
        name: place if stems[place.with_suffix("")] > 1 else place.with_suffix("") for name, place in whole.items()
    }
    for place, count in Counter(places[name] for name in names).items():
        those = " and ".join([name for name in names if places[name] == place][:2])
        require(count == 1, f"{count} recordings are called {place}, {those}: write each to an --output-dir of its own")
    return places


if __name__ == "__main__":
    main()
