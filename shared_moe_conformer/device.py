"""The choice of the device to compute on."""

from __future__ import annotations

import argparse

import torch


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Add --device to a parser."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 and so on; auto: a GPU if there is one [auto]"
    )


def choose_device(name: str) -> torch.device:
    """The device of a name; auto is a GPU where torch finds one, otherwise the CPU.

    Raises:
      ValueError: torch cannot use the device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)  # "cuda" gets no number here, since each of several processes has a GPU of its own
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name} cannot be used here ({str(error).splitlines()[0]}): give cpu, or leave it out"
        ) from error
