"""The encoder in NeMo, which no environment of this repository has: pip install nemo_toolkit[asr]."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nemo.collections.asr", reason="needs NeMo: pip install nemo_toolkit[asr]", exc_type=ImportError)

from nemo.collections.asr.models import EncDecCTCModel  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.config import to_dict  # noqa: E402
from shared_moe_conformer.decoding.options import DecodingConfig  # noqa: E402
from shared_moe_conformer.nemo import Encoder  # noqa: E402
from shared_moe_conformer.speech.audio import read_audio, write_wav  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RELEASED = ROOT / "zoo/an4-base"
MODULES = "nemo.collections.asr.modules"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The model in the clone."""
    return Bundle.load(RELEASED)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Any:
    """It as a CTC model of NeMo, whose blank is the last unit."""
    encoder = {**to_dict(bundle.config.model.encoder), "balancing_bias_rate": 0.001}
    config = {
        "sample_rate": 16000,
        "preprocessor": {"_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor", "features": 80},
        "encoder": {"_target_": "shared_moe_conformer.nemo.Encoder", "feat_in": 80, **encoder},
        "decoder": {"_target_": f"{MODULES}.ConvASRDecoder", "feat_in": None, "num_classes": -1},
    }
    config["decoder"]["vocabulary"] = [f"{number}," for number in range(1, bundle.config.model.vocab_size)]
    model = EncDecCTCModel(OmegaConf.create(config)).eval()
    own = bundle.model.encoder.state_dict()
    parts = ("front_end", "layers")
    names = {f"{part}.{name}" for part in parts for name in getattr(model.encoder, part).state_dict()}
    state = {f"{part}.{name}": value for part in parts for name, value in own.items() if f"{part}.{name}" in names}
    missing, unexpected = model.encoder.load_state_dict(state, strict=False)
    assert not unexpected and all("bias" in name for name in missing)
    head, linear = bundle.model.ctc_head, model.decoder.decoder_layers[0]
    with torch.no_grad():
        linear.weight.copy_(torch.roll(head.weight, -1, dims=0).unsqueeze(-1))
        linear.bias.copy_(torch.roll(head.bias, -1, dims=0))
    return model


def test_frames_and_text_of_real_speech_are_the_packages(bundle: Bundle, model: Any) -> None:
    samples, sampling_rate = read_audio(RELEASED / "test.wav")
    parts = [samples, samples[:24000]]
    features = [bundle.features(part, sampling_rate) for part in parts]
    x, lens = torch.nn.utils.rnn.pad_sequence(features, batch_first=True), torch.tensor([len(f) for f in features])
    with torch.inference_mode():
        frames, frame_lens = model.encoder(audio_signal=x.transpose(1, 2), length=lens)
        expected = bundle.model.encode(x, lens)
        log_probs, _, _ = model(processed_signal=x.transpose(1, 2), processed_signal_length=lens)
    torch.testing.assert_close(frames.transpose(1, 2), expected.encoder_out, atol=1e-5, rtol=0)
    assert torch.equal(frame_lens, expected.encoder_out_lens)
    found = model.decoding.ctc_decoder_predictions_tensor(log_probs, decoder_lengths=frame_lens)
    texts = [bundle.tokenizer.decode([int(i) for i in hypothesis.text.split(",") if i]) for hypothesis in found]
    search = DecodingConfig(decoding_method="ctc_greedy_search")
    assert texts == [bundle.transcribe(part, sampling_rate=sampling_rate, decoding=search).text for part in parts]
    assert texts[0] == "L K K N THIRTY EIGHT"


def test_nemos_trainer_trains_it_by_the_pages_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    samples, sampling_rate = read_audio(RELEASED / "test.wav")
    write_wav(tmp_path / "test.wav", samples, sampling_rate=sampling_rate)
    line = {"audio_filepath": "test.wav", "duration": 3.0, "text": "L K K N THIRTY EIGHT"}
    (tmp_path / "train.json").write_text(json.dumps(line) + "\n")
    page = (ROOT / "docs/nemo.md").read_text()
    assert page.count("\n") <= 40
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    encoder = names["model"].encoder
    assert encoder.front_end.feature_norm.num_frames >= 20 * 300
    assert encoder.layers.frames_per_expert is not None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"chunk_sizes": [0, 8]}, r"chunk_sizes \(0, 8\), but NeMo's streaming does not know it: leave them out"),
        ({"balancing_bias_rate": 0.0}, "this trainer adds no load-balancing loss"),
        ({"depth": 3}, "EncoderConfig has no option depth"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(feat_in=80, **options)
