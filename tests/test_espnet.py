from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest
import torch

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.encoder import Encoder

pytest.importorskip("espnet2.tasks.asr", reason="needs ESPnet and what it imports", exc_type=ImportError)

OPTIONS: dict[str, Any] = {"encoder_dim": 16, "num_attention_heads": 2, "feed_forward_dim": 24, "conv_kernel_size": 5}
OPTIONS |= {"subsampling_channels": 4, "group_sizes": [2, 1], "num_experts": 3}


def make_encoder(**changes: Any) -> Any:
    """The encoder as ESPnet's task makes it of a config."""
    from espnet2.tasks.asr import encoder_choices

    import shared_moe_conformer.espnet  # noqa: F401

    return encoder_choices.get_class("shared_moe_conformer")(input_size=80, **{**OPTIONS, **changes})


def test_the_encoder_is_a_choice_and_gives_the_packages_frames() -> None:
    encoder = make_encoder().eval()
    assert encoder.output_size() == 16
    own = Encoder(EncoderConfig(**{**OPTIONS, "group_sizes": (2, 1), "balancing_bias_rate": 0.001}), num_mel_bins=80)
    own.load_state_dict({name.split(".", 1)[1]: value for name, value in encoder.state_dict().items()})
    x, x_lens = torch.randn(2, 90, 80), torch.tensor([90, 50])
    frames, lens, states = encoder(x, x_lens)
    expected = own.eval()(x, x_lens)
    torch.testing.assert_close(frames, expected.encoder_out, atol=1e-5, rtol=0)
    assert torch.equal(lens, expected.encoder_out_lens) and states is None
    assert frames.size(-2) <= lens.max()  # which ESPnet's model asserts


def test_espnets_parser_knows_the_name_and_completes_the_options() -> None:
    from espnet2.tasks.asr import ASRTask
    from espnet2.utils.get_default_kwargs import get_default_kwargs

    encoder = make_encoder()
    arguments = ["--encoder", "shared_moe_conformer", "--encoder_conf", "encoder_dim=16", "--output_dir", "x"]
    assert ASRTask.get_parser().parse_args(arguments).encoder == "shared_moe_conformer"
    options = get_default_kwargs(type(encoder))
    assert {f.name for f in dataclasses.fields(EncoderConfig)} <= options.keys()
    assert (options["group_sizes"], options["balancing_bias_rate"]) == ([12], 0.001)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"chunk_sizes": [0, 8]}, r"encoder_conf has chunk_sizes \(0, 8\), but ESPnet's asr task recognises whole"),
        ({"balancing_bias_rate": 0.0}, "this trainer adds no load-balancing loss"),
        ({"depth": 3}, "EncoderConfig has no option depth"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_encoder(**options)


def test_an_utterance_without_a_frame_is_espnets_own_error() -> None:
    from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError

    with pytest.raises(TooShortUttError, match="an utterance has 5 frames: give 7 or more"):
        make_encoder()(torch.randn(2, 90, 80), torch.tensor([90, 5]))


def test_the_command_registers_and_runs_espnets_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from shared_moe_conformer import espnet

    called: list[Any] = []
    monkeypatch.setattr("espnet2.bin.asr_train.ASRTask.main", lambda cmd: called.append([*sys.argv]))
    monkeypatch.setattr(sys, "argv", ["espnet.py", "-m", "espnet2.bin.asr_train", "--config", "a.yaml"])
    espnet.main()
    assert called == [["espnet2.bin.asr_train", "--config", "a.yaml"]]
    monkeypatch.setattr(sys, "argv", ["espnet.py", "asr_train"])
    with pytest.raises(SystemExit, match="usage: python -m shared_moe_conformer.espnet -m"):
        espnet.main()
