"""The zoo's command line: `python -m shared_moe_conformer.zoo list|show|pull|push|verify|remove|html`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared_moe_conformer.cli import program, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.release.manifest import TEST_WAV, expected_text, read_manifest, without_defaults
from shared_moe_conformer.release.transfer import ZOO, pull, push, read_remote_index, remove, verify_files
from shared_moe_conformer.release.zoo_index import ZooEntry, entry_of, find, read_index
from shared_moe_conformer.text import aligned_columns, counted

AS_RELEASED = "every file is as released"
ADDRESS = "a folder, file://, http(s):// or hf://owner/name (Hugging Face)"


def verify(name: str, *, zoo_dir: Path) -> str:
    """Check a model's files against the index, and its transcript of the test wav against the released one.

    Returns:
      The test wav's transcript.

    Raises:
      FileNotFoundError: no such model.
      ValueError: something differs; the message names it.
    """
    from shared_moe_conformer.bundle import Bundle  # torch: not for listing

    entry = find(name, zoo_dir=zoo_dir)
    folder = zoo_dir / entry.path
    read_manifest(folder)
    verify_files(entry, folder)
    text, expected = Bundle.load(folder).transcribe(folder / TEST_WAV).text, expected_text(folder)
    require(text == expected, f"{folder} transcribes its test wav as {text!r}, not as released, {expected!r}")
    return text


def table(entries: list[ZooEntry]) -> str:
    """The models in lines of aligned columns."""
    heads = ("name", "corpus", "language", "licence", "unique", "unrolled", "active", "size", "WER (test set, search)")
    return aligned_columns([heads, *map(_row, entries)]).rstrip("\n")


def details(entry: ZooEntry, *, source: str) -> str:
    """The facts about a model in a zoo's index, one per line."""
    rows = {
        "corpus": entry.corpus,
        "language": entry.language,
        "licence": entry.licence,
        "unique parameters": f"{entry.unique_parameters:,}",
        "unrolled parameters": f"{entry.unrolled_parameters:,}",
        "active parameters": f"{entry.active_parameters:,}",
        "size": f"{entry.size:,} bytes",
        "address": f"{source.rstrip('/')}/{entry.path}",
        "SHA-256 of SHA256SUMS": entry.sha256,
    }
    width = max(map(len, rows))
    lines = [entry.name, *(f"  {fact.ljust(width)}  {value}" for fact, value in rows.items())]
    for test_set, rates in entry.error_rates.items():
        lines += [
            f"  WER on {test_set}",
            *(f"    {rate:6.2f} %  {search}" for search, rate in without_defaults(rates).items()),
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("zoo"), description="Released models.")
    where, name, source = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    where.add_argument("--zoo-dir", type=Path, default=Path(ZOO), help=f"the zoo's folder [{ZOO}]")
    name.add_argument("name", help="the model's name")
    source.add_argument("--from", dest="source", help=f"another zoo: {ADDRESS} [this one]")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[where, source], help="print the index").set_defaults(run=_list)
    commands.add_parser("show", parents=[where, source, name], help="print facts about a model").set_defaults(run=_show)
    puller = commands.add_parser("pull", parents=[where, name], help="get a model from another zoo")
    puller.add_argument("--from", dest="source", required=True, help=ADDRESS)
    puller.add_argument("--update", action="store_true", help="take another version of a model that is here")
    puller.set_defaults(run=_pull)
    pusher = commands.add_parser("push", parents=[where, name], help="put a model into another zoo")
    pusher.add_argument("--to", dest="target", required=True, help="a folder, file:// or hf://owner/name")
    pusher.set_defaults(run=_push)
    checker = commands.add_parser("verify", parents=[where], help="check models' files and their test wavs")
    checker.add_argument("name", nargs="*", help="the models' names [all]")
    checker.set_defaults(run=_verify)
    pages = commands.add_parser("html", parents=[where], help="write a page that shows all models in a browser")
    pages.add_argument("--output-dir", type=Path, default=Path("site"), help="the folder to make [site]")
    pages.add_argument("--overwrite", action="store_true", help="replace a page that was written before")
    pages.set_defaults(run=_html)
    commands.add_parser("remove", parents=[where, name], help="delete a model here").set_defaults(run=_remove)
    return parser


def _list(args: argparse.Namespace) -> None:
    where = args.source or args.zoo_dir
    entries = _entries(args)
    print(table(entries) if entries else f"no models in the zoo {where} yet: ./export.py --zoo-dir {where} adds one")


def _show(args: argparse.Namespace) -> None:
    source = args.source or str(args.zoo_dir)
    print(details(entry_of(args.name, _entries(args), source=source), source=source))


def _pull(args: argparse.Namespace) -> None:
    print(f"{pull(args.name, source=args.source, zoo_dir=args.zoo_dir, update=args.update)}: {AS_RELEASED}")


def _push(args: argparse.Namespace) -> None:
    print(f"{push(args.name, zoo_dir=args.zoo_dir, target=args.target)}: {AS_RELEASED}")


def _verify(args: argparse.Namespace) -> None:
    for name in args.name or [entry.name for entry in read_index(args.zoo_dir)]:
        print(f"{name}: {AS_RELEASED}; test.wav: {verify(name, zoo_dir=args.zoo_dir)}", flush=True)


def _remove(args: argparse.Namespace) -> None:
    remove(args.name, zoo_dir=args.zoo_dir)
    print(f"{args.name} is removed from {args.zoo_dir}")


def _html(args: argparse.Namespace) -> None:
    from shared_moe_conformer.web.zoo_site import INDEX_PAGE, write_site  # Markdown: not for the other commands

    count = write_site(args.zoo_dir, args.output_dir, overwrite=args.overwrite)
    print(f"{args.output_dir / INDEX_PAGE}: {counted(count, 'model')}")


def _entries(args: argparse.Namespace) -> list[ZooEntry]:
    return read_remote_index(args.source) if args.source else read_index(args.zoo_dir)


def _row(entry: ZooEntry) -> tuple[str, ...]:
    counts = (entry.unique_parameters, entry.unrolled_parameters, entry.active_parameters)
    size, millions = f"{entry.size / 1e6:.1f} MB", (f"{count / 1e6:.2f}M" for count in counts)
    return (entry.name, entry.corpus, entry.language, entry.licence, *millions, size, entry.shown_rate or "-")


if __name__ == "__main__":
    main()
