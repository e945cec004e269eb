"""A released model in the layout of sherpa-onnx's pre-trained models, which its programs and apps expect.

One kind of folder recognises whole utterances; the other streams in chunks. Both have a transducer and a CTC model.

Source of the layout: sherpa-onnx-zipformer-ru-2024-09-18 (encoder, decoder and joiner) and
sherpa-onnx-zipformer-ctc-zh-int8-2025-07-03 (model.onnx, the CTC head) among sherpa-onnx's asr-models.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import (
    ENCODER_FRAME_SHIFT,
    FRAME_LENGTH,
    FRAME_SHIFT,
    Chunking,
    EncoderConfig,
    FeatureConfig,
    require,
)
from shared_moe_conformer.forms.onnx_chunks import (
    NUM_MEL_BINS,
    SAMPLING_RATE,
    first_states,
    in_chunks,
    metadata,
    num_features,
    tail_seconds,
    whole_chunks,
    write_chunk_graphs,
)
from shared_moe_conformer.forms.onnx_folder import (
    quantise,
    require_onnx,
    write_decoder_and_joiner,
    write_offline_graphs,
)
from shared_moe_conformer.forms.onnx_graphs import describe, write_language_models
from shared_moe_conformer.forms.runtimes import (
    CTC,
    ENCODER,
    SHRUNK,
    checked_differences,
    greedy_transducer,
    int8_name,
    onnx_parts,
    torch_parts,
)
from shared_moe_conformer.release.card import form_card
from shared_moe_conformer.release.manifest import CARD_FILE, TEST_WAV, TOKENIZER_FILES, reference_text

LIBRARY = "sherpa-onnx"
"""That which runs the folder, as Hugging Face calls it."""
CTC_MODEL = "model.onnx"
"""The CTC head's graph, as sherpa-onnx's CTC models call it."""


@dataclass(frozen=True)
class StreamingForm:
    """Chunks of the form sherpa-onnx-online."""

    chunk_size: int = 16
    """Encoder frames of 40 ms in a chunk: larger chunks see more and come later (16: every 640 ms)."""
    left_context_frames: int = 64
    """Encoder frames before its chunk that a frame attends to; each stream remembers them."""

    @property
    def chunking(self) -> Chunking:
        """The frames that a frame may see."""
        return Chunking(self.chunk_size, self.left_context_frames)

    def __post_init__(self) -> None:
        for name in ("chunk_size", "left_context_frames"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give 1 or more")


DEFAULT = StreamingForm()


def write_sherpa(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write the graphs, float32 and int8, with tokens.txt, bpe.model, README.md and test_wavs.

    Arguments, result and errors: see `forms.catalogue.Form`.
    """
    require_onnx()
    bundle = Bundle.load(source)
    with atomic_folder(target, marker=ENCODER, overwrite=overwrite) as folder:
        differences = write_offline_graphs(bundle, source / TEST_WAV, folder)
        (folder / CARD_FILE).write_text(_card(bundle, target.name), encoding="utf-8")
        return _lay_out(folder, source, differences)


def write_onnx_streaming(
    source: Path, target: Path, *, streaming: StreamingForm = DEFAULT, overwrite: bool = False
) -> dict[str, float]:
    """Write what `write_sherpa` writes, with encoders that compute a chunk and remember the ones before.

    The differences are those between the graphs, chunk by chunk, and the model with a mask of chunks. Arguments,
    result and errors: see `forms.catalogue.Form`.

    Args:
      streaming: the chunks; they are a part of the graphs.

    Raises:
      ValueError: sherpa-onnx cannot stream the model's features.
    """
    require_onnx()
    bundle, chunking = Bundle.load(source), streaming.chunking
    refuse_other_features(bundle.config.features)
    own = torch_parts(bundle.model, chunking)
    x, start = whole_chunks(bundle, source / TEST_WAV, chunking), bundle.model.decoder.start_context
    with atomic_folder(target, marker=ENCODER, overwrite=overwrite) as folder:
        write_chunk_graphs(bundle.model, chunking, folder)
        write_decoder_and_joiner(bundle, folder)
        for name in SHRUNK:
            describe(folder / name, bundle, metadata(bundle.config.model.encoder, chunking))
            quantise(folder / name, folder / int8_name(name))
        parts, encoder = onnx_parts(folder), bundle.config.model.encoder
        chunked = {name: in_chunks(getattr(parts, name), encoder, chunking) for name in ("encoder", "ctc")}
        of_lms = write_language_models(bundle, folder, for_streams=True)
        differences = of_lms | checked_differences(own, parts._replace(**chunked), x, start, suffix=".onnx")
        text = bundle.tokenizer.decode(greedy_transducer(own, x, start)[0])
        card = _streaming_card(bundle, chunking, name=target.name, text=text)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        return _lay_out(folder, source, differences)


def _lay_out(folder: Path, source: Path, differences: Mapping[str, float]) -> dict[str, float]:
    """Name the CTC graphs as sherpa-onnx does, and add units and the test recording; return the files' differences."""
    for name, new in ((CTC, CTC_MODEL), (int8_name(CTC), int8_name(CTC_MODEL))):
        (folder / name).rename(folder / new)
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, folder / name)
    (folder / "test_wavs").mkdir()
    shutil.copyfile(source / TEST_WAV, folder / "test_wavs" / "0.wav")
    (folder / "test_wavs" / "trans.txt").write_text(f"0.wav {reference_text(source)}\n", encoding="utf-8")
    return {CTC_MODEL if name == CTC else name: value for name, value in differences.items()}


def refuse_other_features(features: FeatureConfig) -> None:
    """Refuse features that do not fit the contract."""
    require(
        (features.num_mel_bins, features.sampling_rate) == (NUM_MEL_BINS, SAMPLING_RATE),
        f"sherpa-onnx streams only features of {NUM_MEL_BINS} mel bins at {SAMPLING_RATE} Hz, and this model's have"
        f" {features.num_mel_bins} at {features.sampling_rate} Hz: write another form, such as onnx",
    )


def feature_options(features: FeatureConfig) -> str:
    """Command-line options for the features, each followed by a space; empty if the defaults fit."""
    options = {
        "sample-rate": (features.sampling_rate, SAMPLING_RATE),
        "feat-dim": (features.num_mel_bins, NUM_MEL_BINS),
    }
    return "".join(f"--{name}={value} " for name, (value, default) in options.items() if value != default)


CARD = """
# {name}

A speech recogniser (language: {language}) trained on *{corpus}*, for
[sherpa-onnx](https://github.com/k2-fsa/sherpa-onnx): a transducer (encoder, decoder, joiner) and, with the same
encoder, a CTC model (`{ctc}`). `*.int8.onnx` have the weights of feed-forwards and experts, or all merged weights, in
int8.
Licence: {licence}, that of the corpus.

```bash
sherpa-onnx-offline {options}--tokens=tokens.txt \\
  --encoder=encoder.int8.onnx --decoder=decoder.onnx --joiner=joiner.onnx test_wavs/0.wav
sherpa-onnx-offline {options}--tokens=tokens.txt --zipformer-ctc-model=model.int8.onnx test_wavs/0.wav
```

`test_wavs/trans.txt` says what is spoken in the recording. The model is a conformer: `--zipformer-ctc-model` takes any
CTC model of these inputs and outputs.
"""


def _card(bundle: Bundle, name: str) -> str:
    """The text of README.md."""
    options = feature_options(bundle.config.features)
    return form_card(bundle.manifest, bundle.config, CARD, name=name, library=LIBRARY, ctc=CTC_MODEL, options=options)


STREAMING_CARD = """
# {name}

A streaming speech recogniser (language: {language}) trained on *{corpus}*, as graphs that
[sherpa-onnx](https://github.com/k2-fsa/sherpa-onnx) runs while a person speaks. Licence: {licence}, that of the corpus.

{training}

| | |
|---|---|
| chunk | {chunk_size} encoder frames, {chunk_ms} ms |
| left context | {left_context} encoder frames, {left_ms} ms, in each layer |
| first tokens | after {first_ms} ms of audio at the earliest, then every {chunk_ms} ms |
| memory of a stream | {megabytes:.2f} MB |
| silence to add at the end | {tail:.2f} s |

## How to recognise

`pip install sherpa-onnx-bin`, then in this folder:

```bash
sherpa-onnx --tokens=tokens.txt --encoder=encoder.int8.onnx --decoder=decoder.onnx --joiner=joiner.onnx test_wavs/0.wav
sherpa-onnx --tokens=tokens.txt --zipformer2-ctc-model=model.int8.onnx test_wavs/0.wav
```

Or in Python, with `pip install sherpa-onnx soundfile`:

```python
import numpy as np
import sherpa_onnx
import soundfile

recogniser = sherpa_onnx.OnlineRecognizer.from_transducer(
    encoder="encoder.int8.onnx", decoder="decoder.onnx", joiner="joiner.onnx", tokens="tokens.txt"
)
samples, sampling_rate = soundfile.read("test_wavs/0.wav", dtype="float32")
silence = np.zeros(int({tail:.2f} * sampling_rate) + 1, dtype=np.float32)
samples = np.concatenate([samples, silence])
stream = recogniser.create_stream()
for begin in range(0, len(samples), 1600):  # as they come from a microphone
    stream.accept_waveform(sampling_rate, samples[begin : begin + 1600])
    while recogniser.is_ready(stream):
        recogniser.decode_stream(stream)
        print(recogniser.get_result(stream))
```

The CTC head needs no search: `sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(model="model.int8.onnx",
tokens="tokens.txt")`. `recogniser.decode_streams([...])` computes the chunks of several streams as one batch.

**The last words** need {tail:.2f} s of silence after them: T + 2 = {padded} feature frames of 10 ms. sherpa-onnx
computes a chunk of T = {num_features} frames when there are more than T, and never a shorter one.

## Files

`encoder.onnx` and `model.onnx` (CTC) compute one chunk, `*.int8.onnx` the same with the weights of feed-forwards and
experts, or all merged weights, in int8; `decoder.onnx` and `joiner.onnx` belong to the transducer, `tokens.txt` to both
models; `test_wavs/0.wav` is a recording, and `test_wavs/trans.txt` what is spoken in it. The transducer in float32
finds: *{text}*. The states of the graphs are those of a streaming zipformer2 (sherpa-onnx's `model_type`), the model
itself is a conformer.
"""


def _streaming_card(bundle: Bundle, chunking: Chunking, *, name: str, text: str) -> str:
    """The text of README.md; the error rates are those of whole utterances, so they are not in its header."""
    assert chunking.left_context is not None
    config = bundle.config.model.encoder
    states = first_states(config, chunking, num_streams=1).values()
    size = num_features(chunking)
    return form_card(
        replace(bundle.manifest, error_rates={}),
        bundle.config,
        STREAMING_CARD,
        name=name,
        library=LIBRARY,
        text=text,
        training=trained_in_chunks(config),
        chunk_size=chunking.chunk_size,
        chunk_ms=_milliseconds(chunking.chunk_size * ENCODER_FRAME_SHIFT),
        left_context=chunking.left_context,
        left_ms=_milliseconds(chunking.left_context * ENCODER_FRAME_SHIFT),
        # T + 1 feature frames; the last is centred at 10 T + 5 ms
        first_ms=_milliseconds(size * FRAME_SHIFT + FRAME_SHIFT / 2 + FRAME_LENGTH / 2),
        megabytes=sum(state.numel() * state.element_size() for state in states) / 1e6,
        tail=tail_seconds(chunking),
        num_features=size,
        padded=size + 2,
    )


def trained_in_chunks(config: EncoderConfig) -> str:
    """A sentence about the chunks in which the model was trained; a config repeats those that are drawn more often."""
    sizes = ", ".join(map(str, sorted({*config.chunk_sizes} - {0})))
    if not sizes:
        return "It was never trained in chunks (--chunk-sizes), so expect more errors than offline."
    whole = "on whole utterances and " if 0 in config.chunk_sizes else ""
    known = [*sorted({*config.left_contexts} - {0}), *(["all"] if 0 in config.left_contexts else [])]
    contexts = ", ".join(map(str, known))
    return f"It was trained {whole}in chunks of {sizes} encoder frames, with left contexts of {contexts} frames."


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
