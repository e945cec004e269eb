"""Who computes the transducer's lattices: k2 or plain torch. The only module of the losses that imports k2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from shared_moe_conformer.loss import recursion, transducer

try:
    import k2
except ImportError:
    k2 = None


class TransducerFunctions(NamedTuple):
    """k2's functions of these names, or this package's; either take the same arguments."""

    rnnt_loss_smoothed: Callable[..., Any]
    get_rnnt_prune_ranges: Callable[..., Any]
    mutual_information_recursion: Callable[..., Any]


def transducer_functions(backend: str, device: torch.device | str) -> TransducerFunctions:
    """The functions that compute transducer losses on a device.

    Args:
      backend: "k2"; "torch"; or "auto": k2 on a GPU where it is installed, otherwise torch, which is faster on a CPU
        (benchmarks/pruned_transducer.py).
      device: where the loss will be computed.

    Raises:
      ValueError: k2 is asked for and not installed, or another backend.
    """
    if backend not in ("auto", "k2", "torch"):
        raise ValueError(f"transducer_backend is {backend!r}: give one of auto, k2, torch")
    if backend == "k2" and k2 is None:
        raise ValueError(
            "transducer_backend is k2, which is not installed: run `make install ENGINE=k2`, or give torch"
        )
    use_k2 = backend == "k2" or (backend == "auto" and k2 is not None and torch.device(device).type == "cuda")
    return _from_k2() if use_k2 else TORCH_FUNCTIONS


TORCH_FUNCTIONS = TransducerFunctions(
    rnnt_loss_smoothed=transducer.rnnt_loss_smoothed,
    get_rnnt_prune_ranges=transducer.get_rnnt_prune_ranges,
    mutual_information_recursion=recursion.mutual_information_recursion,
)


def _from_k2() -> TransducerFunctions:
    return TransducerFunctions(
        rnnt_loss_smoothed=k2.rnnt_loss_smoothed,
        get_rnnt_prune_ranges=k2.get_rnnt_prune_ranges,
        mutual_information_recursion=k2.mutual_information_recursion,
    )
