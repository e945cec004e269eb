"""All commands under one name: `smc transcribe ...`, which is `python -m shared_moe_conformer transcribe ...`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from shared_moe_conformer import __version__

COMMANDS = {
    "transcribe": "print what is said in audio files, and when",
    "serve": "serve a page to speak to",
    "zoo": "list, pull, push and verify released models",
    "convert": "write a released model in other toolkits' forms",
    "compare-forms": "compare these forms on a test set",
    "params": "count parameters",
    "report": "show an experiment in one page",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Call the command that the first argument names, with the remaining arguments."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = _parser().parse_args(given[:1]).command
    module = importlib.import_module(f"shared_moe_conformer.{command.replace('-', '_')}")
    module.main(given[1:])


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name.ljust(width)}  {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="smc",
        usage="smc [-h] [--version] command ...",
        description="Speech recognition with conformers whose layers share weights and experts.",
        epilog=f"commands:\n{listed}\n\nsmc COMMAND --help lists the options of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"smc {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of the commands below")
    return parser


if __name__ == "__main__":
    main()
