"""Command-line flags made of dataclass fields, and one-line errors for users' mistakes."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import io
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from shared_moe_conformer.atomic import is_full
from shared_moe_conformer.config import options_by_name, replace_fields, to_dict
from shared_moe_conformer.text import one_line

C = TypeVar("C")

USER_ERRORS = (ValueError, OSError)
"""Errors that end a program with one line: mistakes of users, refusals of the disk or the network."""


class ShowDefaults(argparse.HelpFormatter):
    """Help that ends with an option's default in brackets, if it has one, like the help of `add_flags`."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is False or action.default in (None, [], argparse.SUPPRESS):
            return action.help or ""
        return f"{action.help} [{_shown(action.default).replace('%', '%%')}]"


class Parser(argparse.ArgumentParser):
    """A parser whose usage has only what must be given.

    The usage stands before the help and before each error, and all flags would fill a screen.
    """

    def format_usage(self) -> str:
        """The usage, as errors show it."""
        self.usage = self.usage or self._briefly()
        return super().format_usage()

    def format_help(self) -> str:
        """The usage and the help."""
        self.usage = self.usage or self._briefly()
        return super().format_help()

    def _briefly(self) -> str:
        required, positional = list[str](), list[str]()
        for action in self._actions:
            name = str(action.metavar or action.dest)
            if action.required and action.option_strings:
                required.append(f"{action.option_strings[0]} {name.upper()}")
            elif not action.option_strings:
                positional.append(f"[{name} ...]" if action.nargs == "*" else name)
        return " ".join(["%(prog)s [options]", *required, *positional])


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    return {
        before.target.id: inspect.cleandoc(after.value.value)
        for before, after in zip(body, body[1:], strict=False)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


def add_flags(
    parser: argparse.ArgumentParser, of: Any, *, instead: Mapping[str, Mapping[str, Any] | None] = MappingProxyType({})
) -> None:
    """Give the parser one flag for every field of a dataclass tree, one titled group for each dataclass.

    A flag that is not given is absent from the parsed arguments, so that it cannot hide a named config's value.

    Args:
      of: a dataclass, whose defaults are shown; or one of its instances, whose values are.
      instead: arguments of `add_argument` that replace the field's own, by field; None: no flag.
    """
    cls = of if isinstance(of, type) else type(of)
    types = get_type_hints(cls)
    title = (inspect.getdoc(cls) or cls.__name__).splitlines()[0]
    group = parser.add_argument_group(cls.__name__, title)
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(types[f.name]):
            add_flags(parser, types[f.name] if of is cls else getattr(of, f.name), instead=instead)
            continue
        changes = instead.get(f.name, {})
        if changes is not None:
            shown = f"{field_docs(cls).get(f.name, '')} [{_shown(getattr(of, f.name))}]".replace("%", "%%")
            own = {"default": argparse.SUPPRESS, "help": shown, **_argument_type(types[f.name])}
            group.add_argument(f"--{f.name.replace('_', '-')}", **{**own, **changes})


def apply_flags(config: C, args: argparse.Namespace) -> C:
    """The config tree with the values of the flags that were given (`add_flags`)."""
    names = options_by_name(to_dict(config)).keys()
    return replace_fields(config, {name: value for name, value in vars(args).items() if name in names})


def add_config_flag(
    parser: argparse.ArgumentParser, configs: Mapping[str, Any], what: str, arguments: Sequence[str] | None = None
) -> str:
    """Add `--config`; return the name that the arguments give, so that help can show the values of that config.

    Args:
      configs: the named configs; the default is the first.
      what: the flag's help.
      arguments: those of the program; None: the command line's.
    """
    default = next(iter(configs))
    parser.add_argument("--config", choices=configs, default=default, help=f"{what} [{default}]")
    naming = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    naming.add_argument("--config", default=default)
    name: str = naming.parse_known_args(arguments)[0].config
    return name if name in configs else default


def add_layers_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--num-layers N`, for `Encoder.use_layers`."""
    parser.add_argument(
        "--num-layers", type=int, default=0, help="layers that compute, in a model trained with --depths [all]"
    )


def add_vad_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--vad true|false`."""
    parser.add_argument(
        "--vad",
        default=True,
        help="believe words only where Silero VAD hears speech: music and noise then give none [true]",
        **_argument_type(bool),
    )


def program(verb: str) -> str:
    """The name of a verb's program in its help: as it was called, by `smc` or by `python -m`."""
    if Path(sys.argv[0]).parts[-1:] == ("smc",) or Path(sys.argv[0]).parts[-2:] == (
        "shared_moe_conformer",
        "__main__.py",
    ):
        return f"smc {verb.replace('_', '-')}"
    return f"python -m shared_moe_conformer.{verb}"


def run_main(main: Callable[[], None]) -> None:
    """Call `main`; one of `USER_ERRORS`, or too little memory, ends the program with one line and exit status 1.

    Characters that the terminal cannot show become `?`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
    try:
        main()
    except BrokenPipeError:  # as in `... | head`: nobody reads on, and Python would complain again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except USER_ERRORS as error:
        advice = ": make room there, then run this again" if is_full(error) else ""
        print(f"error: {one_line(error)}{advice}", file=sys.stderr)
        raise SystemExit(1) from None
    except (RuntimeError, MemoryError) as error:
        from shared_moe_conformer.device import is_out_of_memory  # torch is slow to import

        if not is_out_of_memory(error):
            raise
        print("error: the memory does not suffice: give shorter recordings or smaller batches", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _argument_type(kind: Any) -> dict[str, Any]:
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind), "type": functools.partial(_parse_choice, get_args(kind))}
    if get_origin(kind) is tuple:
        return {"type": functools.partial(_parse_tuple, get_args(kind)[0]), "metavar": "A,B,.."}
    if kind is bool:
        return {"type": _parse_bool, "metavar": "true|false"}
    return {"type": kind, "metavar": kind.__name__.upper()}


def _parse_choice(choices: tuple[str, ...], text: str) -> str:
    """The choice of this name, in which a hyphen may stand for an underscore: icefall has both."""
    return {choice.replace("_", "-"): choice for choice in choices}.get(text.replace("_", "-"), text)


def _parse_tuple(kind: type, text: str) -> tuple[Any, ...]:
    return tuple(kind(part) for part in text.split(",") if part)


def _parse_bool(text: str) -> bool:
    """`true` or `false` (also 1/0, as icefall's flags accept)."""
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def _shown(value: Any) -> str:
    if isinstance(value, list):  # of one flag, as it is written
        return " ".join(map(str, value))
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
