from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared_moe_conformer.config import Chunking, EncoderConfig
from shared_moe_conformer.model.encoder import Encoder
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parent.parent
CONFIG = dataclasses.replace(TINY.model.encoder, balancing_bias_rate=0.001, chunk_sizes=(0, 4))


class EncoderInterface(nn.Module):
    """Stands for that of a recipe's encoder_interface.py."""


class Params(dict[str, Any]):
    """Stands for icefall's AttributeDict."""

    __getattr__ = dict.__getitem__


@pytest.fixture
def icefall(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is where a recipe's folder is in the path."""
    interface = ModuleType("encoder_interface")
    interface.EncoderInterface = EncoderInterface  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "encoder_interface", interface)
    spec = importlib.util.spec_from_file_location("icefall_of_a_recipe", ROOT / "shared_moe_conformer/icefall.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe(*functions: str) -> ModuleType:
    """A recipe's train module, whose encoder would be its own."""
    train = ModuleType("train")
    for function in functions:
        setattr(train, function, lambda params: None)
    return train


def params(**changes: Any) -> Params:
    """Those of the zipformer recipe that matter."""
    own = {"feature_dim": 80, "encoder_dim": "16", "causal": False}
    return Params({**own, "chunk_size": "16,32,64,-1", "left_context_frames": "64,128,-1", **changes})


def features() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 90, 80, generator=torch.Generator().manual_seed(0)), torch.tensor([90, 50])


def encoded(embed: nn.Module, encoder: nn.Module, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
    """Encoder frames (N, T', C), as the zipformer recipe's model comes to them (PEERS' account of forward_encoder)."""
    x, lens = embed(x, x_lens)
    mask = torch.arange(int(lens.max())) >= lens.unsqueeze(1)
    assert mask.shape == x.shape[:2]
    out, lens = encoder(x.permute(1, 0, 2), lens, mask)
    assert torch.all(lens > 0)
    return out.permute(1, 0, 2), lens


@pytest.mark.parametrize(
    "causal, chunking",
    [
        ({}, None),
        ({"causal": True}, None),
        ({"causal": True, "chunk_size": "8", "left_context_frames": "16"}, Chunking(4, 8)),
    ],
)
def test_zipformers_recipe_gets_the_packages_encoder(
    icefall: ModuleType, causal: dict[str, Any], chunking: Chunking | None
) -> None:
    train = recipe("get_encoder_embed", "get_encoder_model")
    icefall.plug_in(train, CONFIG)
    options = params(**causal)
    embed, encoder = train.get_encoder_embed(options), train.get_encoder_model(options)
    assert isinstance(encoder, EncoderInterface)
    state = {**embed.state_dict(), **encoder.state_dict()}
    own = Encoder(CONFIG, num_mel_bins=80)
    own.load_state_dict(state)
    with torch.no_grad():
        frames, lens = encoded(embed.eval(), encoder.eval(), *features())
        expected = own.eval()(*features(), chunking)
    torch.testing.assert_close(frames, expected.encoder_out, atol=1e-5, rtol=0)
    assert torch.equal(lens, expected.encoder_out_lens)


def test_older_recipes_get_it_as_one_part(icefall: ModuleType) -> None:
    train = recipe("get_encoder_model")
    icefall.plug_in(train, CONFIG)
    encoder = train.get_encoder_model(Params(feature_dim=80, encoder_dim=16, dynamic_chunk_training=True))
    assert isinstance(encoder, EncoderInterface)
    own = Encoder(CONFIG, num_mel_bins=80)
    own.load_state_dict({name.split(".", 1)[1]: value for name, value in encoder.state_dict().items()})
    x, x_lens = features()
    frames, lens = encoder.eval()(x, x_lens, warmup=0.5)
    expected = own.eval()(x, x_lens)
    torch.testing.assert_close(frames, expected.encoder_out, atol=1e-5, rtol=0)
    assert torch.equal(lens, expected.encoder_out_lens)


def test_a_step_of_training_reaches_every_weight(icefall: ModuleType) -> None:
    embed, encoder = (get(params(), CONFIG) for get in (icefall.get_encoder_embed, icefall.get_encoder_model))
    frames, _ = encoded(embed, encoder, *features())
    frames.square().mean().backward()
    named = [*embed.named_parameters(), *encoder.named_parameters()]
    assert [name for name, weight in named if weight.grad is None] == []
    assert embed.feature_norm.num_frames == 140 and encoder.frames_per_expert is not None


def test_options_that_do_not_fit_are_refused(icefall: ModuleType) -> None:
    for options, config, message in [
        (params(encoder_dim="192,256"), CONFIG, "--encoder-dim 192,256 is not the encoder's 16: give --encoder-dim 16"),
        (params(causal=True), dataclasses.replace(CONFIG, chunk_sizes=()), "--causal wants an encoder that is trained"),
        (params(causal=True, chunk_size="1"), CONFIG, "--chunk-size 1 is less than an encoder frame"),
        (params(), TINY.model.encoder, "this trainer adds no load-balancing loss"),
    ]:
        with pytest.raises(ValueError, match=message):
            icefall.get_encoder_model(options, config)
    old = Params(feature_dim=80, encoder_dim=16, dynamic_chunk_training=True)
    with pytest.raises(ValueError, match="--dynamic-chunk-training wants an encoder"):
        icefall.get_conformer(old, dataclasses.replace(CONFIG, chunk_sizes=()))
    with pytest.raises(ValueError, match="train has no get_encoder_model: give a recipe's train module"):
        icefall.plug_in(recipe(), CONFIG)


def test_the_pages_file_plugs_in_and_calls_the_recipes_script(monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/icefall.md").read_text(), re.DOTALL)
    assert program.count("\n") <= 40
    train, decode, called = recipe("get_encoder_embed", "get_encoder_model"), ModuleType("decode"), []
    decode.main = lambda: called.append(sys.argv[1:])  # type: ignore[attr-defined]
    for module in (train, decode):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "argv", ["shared.py", "decode", "--epoch", "30"])
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(program, names)
    assert called == [["--epoch", "30"]]
    config: EncoderConfig = names["CONFIG"]
    encoder = train.get_encoder_model(params(encoder_dim=str(config.encoder_dim)))
    assert sum(parameter.numel() for parameter in encoder.parameters()) > 1e6
