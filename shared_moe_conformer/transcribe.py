"""The verb that turns audio files into text: `python -m shared_moe_conformer.transcribe --model zoo/NAME a.wav`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.cli import USER_ERRORS, add_flags, apply_flags, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.cpu import tune_cpu
from shared_moe_conformer.decoding.methods import DecodingConfig, resolved
from shared_moe_conformer.transcript import FORMATS, Transcript
from shared_moe_conformer.zoo import resolve


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: _transcribe_files(args))


def transcribe_files(
    bundle: Bundle,
    paths: Sequence[Path],
    *,
    decoding: DecodingConfig,
    show: Callable[[str, Transcript], str],
) -> list[Path]:
    """Print each file's transcript as soon as it is known; an error of one file does not stop the others.

    Returns:
      The files that could not be transcribed; why stands on the standard error.
    """
    failed = []
    for path in paths:
        try:
            print(show(str(path), bundle.transcribe(path, decoding=decoding)), flush=True)
        except USER_ERRORS as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            failed.append(path)
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared_moe_conformer.transcribe",
        description="Print what is said in audio files, and when.",
    )
    parser.add_argument(
        "audio", type=Path, nargs="+", help="files of any kind that libsndfile reads, at any sampling rate"
    )
    parser.add_argument("--model", required=True, help="a released model: its folder, or its name in the zoo")
    parser.add_argument("--zoo-dir", type=Path, default=Path("zoo"), help="the folder of released models [zoo]")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="times",
        help="times: text, and under it each token over its time in seconds; text: one line of text for each file; "
        "json: one object a line with tokens and words and their times [times]",
    )
    add_flags(parser, DecodingConfig)
    return parser


def _transcribe_files(args: argparse.Namespace) -> None:
    tune_cpu()
    bundle = Bundle.load(resolve(args.model, zoo_dir=args.zoo_dir))
    decoding, *others = resolved(apply_flags(bundle.default_search, args), vocab_size=bundle.config.model.vocab_size)
    require(not others, "--decoding-method all: give one method")
    failed = transcribe_files(bundle, args.audio, decoding=decoding, show=FORMATS[args.format])
    if failed:
        raise ValueError(f"{len(failed)} of {len(args.audio)} files failed: {', '.join(map(str, failed))}")


if __name__ == "__main__":
    main()
