"""Tests inside ESPnet itself: test_espnet.py runs them where requirements/espnet.sh has put what ESPnet imports."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml

from shared_moe_conformer import espnet
from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.encoder import Encoder

MODEL = Path(__file__).resolve().parent.parent / "zoo/an4-base"
"""Holds a real recording, what is said in it, and units."""
OPTIONS: dict[str, Any] = {"encoder_dim": 16, "num_attention_heads": 2, "feed_forward_dim": 24, "conv_kernel_size": 5}
OPTIONS |= {"subsampling_channels": 4, "group_sizes": [2, 1], "num_experts": 3}
SEARCH: dict[str, Any] = {"ctc_weight": 1.0, "beam_size": 2, "minlenratio": 0.1}
"""Fewest units a frame that the search must find: after two steps of training it would find none by itself."""


def run_espnet(monkeypatch: pytest.MonkeyPatch, module: str, *arguments: str) -> None:
    """Run a module of ESPnet as `python -m shared_moe_conformer.espnet -m` does."""
    monkeypatch.setattr(sys, "argv", ["espnet.py", "-m", f"espnet2.bin.{module}", *arguments])
    espnet.main()


def write_inputs(folder: Path) -> None:
    """Config, units and Kaldi folders."""
    names = [line.split()[0] for line in (MODEL / "tokens.txt").read_text().splitlines()]
    units = ["<blank>", "<unk>", *(name for name in names if not name.startswith("<")), "<sos/eos>"]
    (folder / "tokens.txt").write_text("".join(f"{unit}\n" for unit in units))
    text = (MODEL / "test.txt").read_text().splitlines()[-1].split(": ")[1]
    for split, utterances in (("train", ("a", "b")), ("valid", ("c",))):
        (folder / split).mkdir()
        (folder / split / "wav.scp").write_text("".join(f"{name} {MODEL / 'test.wav'}\n" for name in utterances))
        (folder / split / "text").write_text("".join(f"{name} {text}\n" for name in utterances))
    config: dict[str, Any] = {
        "encoder": "shared_moe_conformer",
        "encoder_conf": OPTIONS,
        "frontend_conf": {"fs": "16k"},
    }
    config |= {"model_conf": {"ctc_weight": 1.0}, "optim": "adam", "batch_type": "unsorted", "batch_size": 1}
    config |= {"max_epoch": 1, "keep_nbest_models": 1, "num_workers": 0, "num_att_plot": 0, "use_tensorboard": False}
    config |= {"best_model_criterion": [["valid", "loss", "min"]], "use_matplotlib": False, "use_preprocessor": True}
    (folder / "train.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ESPnet has collected statistics and trained two steps."""
    folder = tmp_path_factory.mktemp("espnet")
    write_inputs(folder)
    arguments = ["--config", "train.yaml", "--token_type", "bpe", "--bpemodel", str(MODEL / "bpe.model")]
    arguments += ["--token_list", "tokens.txt"]
    for split in ("train", "valid"):
        for name, kind in (("wav.scp,speech", "sound"), ("text,text", "text")):
            arguments += [f"--{split}_data_path_and_name_and_type", f"{split}/{name},{kind}"]
        arguments += [f"--{split}_shape_file", f"{split}/wav.scp"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        run_espnet(monkeypatch, "asr_train", *arguments, "--collect_stats", "true", "--output_dir", "stats")
        norm = ["--normalize", "global_mvn", "--normalize_conf", "stats_file=stats/train/feats_stats.npz"]
        run_espnet(monkeypatch, "asr_train", *arguments, *norm, "--output_dir", "exp")
    return folder


@pytest.fixture(scope="module")
def recogniser(trained: Path) -> Any:
    from espnet2.bin.asr_inference import Speech2Text

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(trained)
        return Speech2Text("exp/config.yaml", "exp/valid.loss.best.pth", **SEARCH)


def test_espnets_trainer_moves_the_weights_statistics_and_biases(recogniser: Any) -> None:
    encoder = recogniser.asr_model.encoder
    assert type(encoder) is espnet.Encoder
    assert encoder.front_end.feature_norm.num_frames > 0
    biases = [value for name, value in encoder.state_dict().items() if "balanc" in name]
    assert biases and any(bias.abs().max() > 0 for bias in biases)


def test_the_encoders_frames_are_the_packages(recogniser: Any) -> None:
    model = recogniser.asr_model
    own = Encoder(EncoderConfig(**{**OPTIONS, "group_sizes": (2, 1), "balancing_bias_rate": 0.001}), num_mel_bins=80)
    own.load_state_dict({name.split(".", 1)[1]: value for name, value in model.encoder.state_dict().items()})
    samples = torch.from_numpy(soundfile.read(MODEL / "test.wav", dtype="float32")[0])
    batch, lens = torch.stack([samples, samples.roll(4000)]), torch.tensor([len(samples), len(samples) // 2])
    with torch.no_grad():
        features = model.normalize(*model.frontend(batch, lens))
        frames, frame_lens, states = model.encoder(*features)
        expected = own.eval()(*features)
    torch.testing.assert_close(frames, expected.encoder_out, atol=1e-5, rtol=0)
    assert torch.equal(frame_lens, expected.encoder_out_lens) and states is None
    assert model.encoder.output_size() == frames.size(-1) and frames.size(-2) <= frame_lens.max()


def test_what_espnet_packs_its_model_zoo_loads_and_it_says_the_same(
    trained: Path, recogniser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet2.bin import pack
    from espnet2.bin.asr_inference import Speech2Text
    from espnet_model_zoo.downloader import ModelDownloader

    monkeypatch.chdir(trained)
    pack.main(
        ["asr", "--outpath", "packed/model.zip", "--asr_train_config", "exp/config.yaml"]
        + ["--asr_model_file", "exp/valid.loss.best.pth", "--option", "stats/train/feats_stats.npz"]
    )
    (trained / "stats/train/feats_stats.npz").rename(trained / "gone.npz")
    files = ModelDownloader(cachedir=str(trained / "cache")).unpack_local_file("packed/model.zip")
    samples, _ = soundfile.read(MODEL / "test.wav", dtype="float32")
    text, *_ = recogniser(samples)[0]
    assert text
    assert Speech2Text(**files, **SEARCH)(samples)[0][0] == text


def test_espnets_parser_knows_the_name_and_completes_the_options() -> None:
    from espnet2.tasks.asr import ASRTask
    from espnet2.utils.get_default_kwargs import get_default_kwargs

    arguments = ["--encoder", "shared_moe_conformer", "--encoder_conf", "encoder_dim=16", "--output_dir", "x"]
    assert ASRTask.get_parser().parse_args(arguments).encoder == "shared_moe_conformer"
    options = get_default_kwargs(espnet.Encoder)
    assert {f.name for f in dataclasses.fields(EncoderConfig)} <= options.keys()
    assert (options["group_sizes"], options["balancing_bias_rate"]) == ([12], 0.001)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"chunk_sizes": [0, 8]}, r"the encoder has chunk_sizes \(0, 8\), but ESPnet's asr task recognises whole"),
        ({"balancing_bias_rate": 0.0}, "this trainer adds no load-balancing loss"),
        ({"load_balancing_loss_scale": 0.01}, "EncoderConfig has no option load_balancing_loss_scale"),
        ({"interctc_use_conditioning": True}, "EncoderConfig has no option interctc_use_conditioning"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    from espnet2.tasks.asr import encoder_choices

    with pytest.raises(ValueError, match=message) as caught:
        encoder_choices.get_class("shared_moe_conformer")(input_size=80, **{**OPTIONS, **options})
    assert "\n" not in str(caught.value)


def test_an_utterance_without_a_frame_is_espnets_own_error() -> None:
    from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError

    encoder = espnet.Encoder(input_size=80, **OPTIONS)
    with pytest.raises(TooShortUttError, match="an utterance has 5 frames: give 7 or more"):
        encoder(torch.randn(2, 90, 80), torch.tensor([90, 5]))


def test_the_command_needs_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["espnet.py", "asr_train"])
    with pytest.raises(SystemExit, match="usage: python -m shared_moe_conformer.espnet -m"):
        espnet.main()
