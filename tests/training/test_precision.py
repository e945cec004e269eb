from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.data.augment import Example
from shared_moe_conformer.data.batch import collate
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.moe import Router
from shared_moe_conformer.training.precision import Precision, compilable_parts, compile_parts, recompute_activations
from shared_moe_conformer.training.trainer import Trainer
from tests.training.test_distributed import CONFIG, batches

CPU = torch.device("cpu")
HAS_SCALER = hasattr(torch.amp, "GradScaler")
float16_trains_here = pytest.mark.skipif(not HAS_SCALER, reason="torch 2.3 scales losses on a CPU")


def make_trainer(precision: str) -> Trainer:
    torch.manual_seed(0)
    config = replace_fields(CONFIG, {"precision": precision, "experts_in": "both", "low_rank_delta": 2})
    trainer = Trainer(AsrModel(config.model), config.training)
    trainer.train_mode()
    return trainer


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=float16_trains_here)])
def test_half_precision_trains_as_float32_does(precision: str) -> None:
    losses = {}
    for name in ("float32", precision):
        trainer = make_trainer(name)
        reports = [trainer.train_step(*batches(step % 2), progress=0.1) for step in range(12)]
        assert not any(report.skipped for report in reports)
        losses[name] = [report.totals.averages()["loss"] for report in reports]
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.02) and losses[precision] != losses["float32"]
    assert losses[precision][-1] < 0.8 * losses[precision][0]


def test_matrix_products_have_16_bits_and_routers_layers_and_losses_32(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, seen = make_trainer("bfloat16"), {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            seen.setdefault(name, set()).add(first.dtype)

        return hook

    group = trainer.model.encoder.groups[0]  # type: ignore[union-attr, index]
    for name, module in (("block", group.block), ("product", group.block.attention.output)):
        module.register_forward_hook(watch(name))
    for module in group.modules():
        if isinstance(module, Router):
            module.register_forward_hook(watch("router"))
    with trainer.precision.autocast():
        loss, _ = trainer.losses(trainer.model, batches(0)[0], trainer_scales(trainer))
    float32 = {torch.float32}
    assert seen == {"block": float32, "product": {torch.bfloat16}, "router": float32} and loss.dtype == torch.float32


def trainer_scales(trainer: Trainer) -> Any:
    from shared_moe_conformer.training.metrics import loss_scales

    return loss_scales(trainer.config)


@float16_trains_here
def test_the_loss_scale_is_in_the_checkpoint_and_falls_when_gradients_overflow(
    tiny_model: Callable[[], Any], config: Any, batch: Callable[..., Any]
) -> None:
    trainer = Trainer(tiny_model(), dataclasses.replace(config.training, precision="float16"))
    trainer.train_step(batch(1), progress=0.1)
    before = copy.deepcopy(trainer.model.state_dict())
    handle = trainer.model.hidden_weight.register_hook(lambda grad: grad * float("inf"))  # type: ignore[operator, union-attr]
    report = trainer.train_step(batch(2), progress=0.2)
    handle.remove()
    assert "gradient norm is" in report.skipped
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    other = Trainer(tiny_model(), dataclasses.replace(config.training, precision="float16"))
    other.restore(copy.deepcopy(trainer.checkpoint()))
    assert '"scale": 512.0' in other.checkpoint()["grad_scaler"]
    assert not other.train_step(batch(3), progress=0.3).skipped


@float16_trains_here
def test_no_update_of_several_large_batches_is_lost_at_the_beginning() -> None:
    """Their losses are sums over frames, a thousand times larger than means."""
    config = replace_fields(CONFIG, {"precision": "float16", "accumulate_batches": 2})
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(400, 80, generator=generator) for _ in range(16)]
    batch = collate([Example(x, [3, 4, 5], "a", "b") for x in features])
    torch.manual_seed(0)
    trainer = Trainer(AsrModel(config.model), config.training)
    trainer.train_mode()
    assert not any(trainer.train_step(batch, batch, progress=0.1).skipped for _ in range(3))


@pytest.mark.skipif(HAS_SCALER, reason="this torch can")
def test_float16_on_a_cpu_of_an_older_torch_is_refused() -> None:
    with pytest.raises(ValueError, match="float16 on a CPU needs torch 2.3 or newer, this is 1"):
        Precision("float16", CPU)


def test_float32_changes_nothing() -> None:
    precision, loss = Precision("float32", CPU), torch.tensor(3.0)
    assert precision.scale(loss) is loss and precision.state() == {}
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


HAS_COMPILE = hasattr(nn.Module, "compile")


@pytest.mark.skipif(not HAS_COMPILE, reason="torch 2.2 compiles modules")
def test_compiled_parts_compute_the_same_under_their_own_names() -> None:
    """By dynamo alone: a backend that makes machine code takes minutes."""
    model = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2))
    names, x = list(model.state_dict()), torch.randn(5, 3)
    expected = model(x)
    compile_parts([model[0], model[2]], backend="eager")
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == names
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.skipif(not HAS_COMPILE, reason="torch 2.2 compiles modules")
def test_a_model_without_a_part_to_compile_is_refused(model_config: Any) -> None:
    model = AsrModel(model_config(experts_in="none", merged_sets=2))
    with pytest.raises(ValueError, match="merged sets of weights cannot be compiled, nor experts: leave it out"):
        compile_parts(compilable_parts(model))


@pytest.mark.skipif(HAS_COMPILE, reason="this torch compiles")
def test_an_older_torch_is_named() -> None:
    with pytest.raises(ValueError, match="--compile true needs torch 2.2 or newer, this is 1"):
        compile_parts([nn.Linear(1, 1)])


X, X_LENS = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([60, 48, 31])
Y, Y_LENS = torch.tensor([[4, 5, 6, 7], [3, 3, 0, 0], [9, 0, 0, 0]]), torch.tensor([4, 2, 1])


def step(model: AsrModel) -> tuple[Any, int]:
    """The losses of a batch after their backward, and the bytes that autograd kept for it outside recomputed layers."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model(X, X_LENS, Y, Y_LENS)
    (losses.pruned_loss + losses.ctc_loss + losses.load_balancing_loss + losses.router_z_loss).backward()
    return losses, kept


@pytest.mark.parametrize(
    "options",
    [
        {"experts_in": "none", "low_rank_delta": 2},
        {"experts_in": "both", "low_rank_delta": 2},
        {"experts_in": "none", "merged_sets": 2},
    ],
    ids=["dense", "experts", "merged"],
)
def test_gradients_losses_and_statistics_are_as_without(model_config: Any, options: dict[str, Any]) -> None:
    options = {"group_sizes": (3, 1), "dropout": 0.2, "router_jitter": 0.1, **options}
    plain = AsrModel(model_config(**options), num_mel_bins=20)
    saving = copy.deepcopy(plain)
    recompute_activations(saving)
    (expected, kept), (found, kept_less) = step(plain), step(saving)
    assert kept_less < 0.5 * kept
    for name, value in expected._asdict().items():
        assert value is None or torch.equal(value, getattr(found, name)), name
    others = dict(saving.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(others[name].grad, parameter.grad, msg=name)
    statistics = dict(saving.named_buffers())
    assert all(torch.equal(value, statistics[name]) for name, value in plain.named_buffers())
    assert not torch.equal(plain.encoder.groups[0].norms[0].depthwise.running_mean, torch.zeros(16))


def test_statistics_count_again_after_a_backward(model_config: Any) -> None:
    model = AsrModel(model_config(), num_mel_bins=20)
    recompute_activations(model)
    means = []
    for _ in range(2):
        step(model)
        means.append(model.encoder.groups[0].norms[0].depthwise.running_mean.clone())
    assert not torch.equal(*means)
