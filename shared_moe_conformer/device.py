"""Where to compute."""

from __future__ import annotations

import argparse

import torch


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Let the user choose the device."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, ..; auto: a GPU if there is one [auto]"
    )


def choose_device(name: str) -> torch.device:
    """The device of a name; auto: a GPU where torch has one, otherwise the CPU.

    Raises:
      ValueError: torch cannot use it here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)  # cuda stays without a number: of several processes each has its own
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} is of no use here: {str(error).splitlines()[0]}") from error
