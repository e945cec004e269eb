from __future__ import annotations

import pytest

from shared_moe_conformer.kernels import recursion
from shared_moe_conformer.loss import pruned_transducer
from shared_moe_conformer.loss.pruned_transducer import transducer_functions


def test_auto_is_torch_on_a_cpu() -> None:
    functions = transducer_functions("auto", "cpu")
    assert functions == transducer_functions("torch", "cpu")
    assert functions.mutual_information_recursion is recursion.mutual_information_recursion


def test_auto_is_k2_on_a_gpu_where_it_is_installed() -> None:
    k2 = pytest.importorskip("k2")
    assert transducer_functions("auto", "cuda").rnnt_loss_smoothed is k2.rnnt_loss_smoothed
    assert transducer_functions("k2", "cpu") == transducer_functions("auto", "cuda:1")


def test_without_k2_auto_is_torch_and_k2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruned_transducer, "k2", None)
    assert transducer_functions("auto", "cuda") == transducer_functions("torch", "cpu")
    with pytest.raises(ValueError, match="k2, which is not installed: run `make install ENGINE=k2`"):
        transducer_functions("k2", "cpu")


def test_another_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="'warp': give one of auto, k2, torch"):
        transducer_functions("warp", "cpu")
