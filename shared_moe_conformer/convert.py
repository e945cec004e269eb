"""The verb that turns a released model into other toolkits' forms: `python -m shared_moe_conformer.convert`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared_moe_conformer.cli import Parser, add_flags, apply_flags, program, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.forms.catalogue import FORMS, FORMS_HELP, refuse_unused_chunks, target_of, write_form
from shared_moe_conformer.forms.sherpa_folder import StreamingForm
from shared_moe_conformer.release.hub import HUB, hub_upload_files, require_repository
from shared_moe_conformer.release.transfer import add_model_flags, resolve


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: _convert(args))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=program("convert"), description="Write a released model in other toolkits' forms.")
    add_model_flags(parser)
    parser.add_argument("--to", choices=FORMS, nargs="+", required=True, help=FORMS_HELP)
    parser.add_argument(
        "--output",
        type=Path,
        help="file or folder to write, if --to names one form [beside the model's folder, named after model and form]",
    )
    parser.add_argument(
        "--push",
        metavar="ADDRESS",
        help=f"also put the form, if --to names only one, into this repository of Hugging Face: {HUB}owner/name",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote")
    add_flags(parser, StreamingForm)
    return parser


def _convert(args: argparse.Namespace) -> None:
    require(args.output is None or len(args.to) == 1, f"--output holds one form, and --to names {len(args.to)}")
    if args.push is not None:
        require(len(args.to) == 1, f"--push takes one form, and --to names {len(args.to)}")
        require_repository(args.push)
    streaming = apply_flags(StreamingForm(), args)
    refuse_unused_chunks(streaming, args.to)
    source = resolve(args.model, zoo_dir=args.zoo_dir).resolve()
    for form in args.to:
        target = args.output or target_of(form, source)
        for line in write_form(form, source, target, streaming=streaming, overwrite=args.overwrite):
            print(line, flush=True)
        if args.push is not None:
            hub_upload_files(target, args.push)
            print(f"{args.push}: now has it")


if __name__ == "__main__":
    main()
