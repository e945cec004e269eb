"""A released model as a folder that sherpa-onnx's streaming recogniser loads: a transducer or a CTC model in chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import (
    ENCODER_FRAME_SHIFT,
    FRAME_LENGTH,
    FRAME_SHIFT,
    SUBSAMPLING_FACTOR,
    Chunking,
    EncoderConfig,
    FeatureConfig,
    require,
)
from shared_moe_conformer.forms.onnx_folder import quantise, require_onnx, write_decoder_and_joiner
from shared_moe_conformer.forms.onnx_graphs import (
    NUM_MEL_BINS,
    SAMPLING_RATE,
    describe,
    first_states,
    metadata,
    num_features,
    write_chunk_graphs,
)
from shared_moe_conformer.forms.onnx_language_model import write_language_models
from shared_moe_conformer.forms.runtimes import (
    ENCODER,
    SHRUNK,
    Graph,
    checked_differences,
    greedy_transducer,
    int8_name,
    onnx_parts,
    torch_parts,
)
from shared_moe_conformer.forms.sherpa_folder import lay_out
from shared_moe_conformer.release.manifest import CARD_FILE, TEST_WAV
from shared_moe_conformer.speech.audio import read_audio

IN_CHUNKS = ("encoder", "ctc")
"""The parts that compute a chunk."""


@dataclass(frozen=True)
class StreamingForm:
    """Chunks of the form sherpa-onnx-online."""

    chunk_size: int = 16
    """Encoder frames of 40 ms in a chunk: more of them see more and are recognised later (16: every 640 ms)."""
    left_context_frames: int = 64
    """Encoder frames before its chunk that a frame attends to; each stream keeps them in memory."""

    @property
    def chunking(self) -> Chunking:
        """The frames that a frame may see."""
        return Chunking(self.chunk_size, self.left_context_frames)

    def __post_init__(self) -> None:
        for name in ("chunk_size", "left_context_frames"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give 1 or more")


DEFAULT = StreamingForm()


def write_onnx_streaming(
    source: Path, target: Path, *, streaming: StreamingForm = DEFAULT, overwrite: bool = False
) -> dict[str, float]:
    """Write what `write_sherpa` writes, with encoders that compute a chunk and remember the ones before.

    Args:
      source: the bundle's folder.
      target: the folder to make; it appears whole or not at all.
      streaming: the chunks; they are a part of the graphs.
      overwrite: replace such a folder.

    Returns:
      By float32 file, the largest difference of its output, chunk by chunk, from the model's with a mask of chunks, on
      the test wav.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged or has other features, onnx or onnxruntime is not installed, or the graphs
        differ from the model.
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
        parts = onnx_parts(folder)
        chunked = {name: in_chunks(getattr(parts, name), bundle.config.model.encoder, chunking) for name in IN_CHUNKS}
        of_lms = write_language_models(bundle, folder, for_streams=True)
        differences = of_lms | checked_differences(own, parts._replace(**chunked), x, start, suffix=".onnx")
        text = bundle.tokenizer.decode(greedy_transducer(own, x, start)[0])
        (folder / CARD_FILE).write_text(_card(bundle, chunking, name=target.name, text=text), encoding="utf-8")
        return lay_out(folder, source, differences)


def in_chunks(graph: Graph, config: EncoderConfig, chunking: Chunking) -> Graph:
    """A graph of chunks as one of whole utterances, which must be whole chunks."""
    step, size = SUBSAMPLING_FACTOR * chunking.chunk_size, num_features(chunking)

    def of_utterances(x: np.ndarray, x_lens: np.ndarray) -> list[np.ndarray]:
        assert (x_lens == x.shape[1]).all() and (x.shape[1] - size) % step == 0
        states = [state.numpy() for state in first_states(config, chunking, len(x)).values()]
        parts = []
        for begin in range(0, x.shape[1] - size + 1, step):
            part, *states = graph(x[:, begin : begin + size], *states)
            parts.append(part)
        return [np.concatenate(parts, axis=1), np.full(len(x), len(parts) * chunking.chunk_size)]

    return of_utterances


def tail_seconds(chunking: Chunking) -> float:
    """Silence to add to a recording, so that no word of it is left in a chunk that never becomes full.

    sherpa-onnx computes a chunk of T feature frames when there are more than T.

    Source: `IsReady` of sherpa-onnx/csrc/online-recognizer-transducer-impl.h; T + 2 is the least silence with which a
    stream that has nothing else is ready.
    """
    return round((num_features(chunking) + 2) * FRAME_SHIFT, 2)


def whole_chunks(bundle: Bundle, path: Path, chunking: Chunking) -> np.ndarray:
    """The features (T, F) of a recording and the silence after it that sherpa-onnx computes."""
    samples, sampling_rate = read_audio(path)
    tail = np.zeros(math.ceil(tail_seconds(chunking) * sampling_rate), dtype=samples.dtype)
    x = bundle.features(np.concatenate([samples, tail]), sampling_rate).numpy()
    step, size = SUBSAMPLING_FACTOR * chunking.chunk_size, num_features(chunking)
    num_chunks = math.ceil((len(x) - size) / step)
    return x[: (num_chunks - 1) * step + size]


def refuse_other_features(features: FeatureConfig) -> None:
    """Refuse features that the contract has no place for."""
    require(
        (features.num_mel_bins, features.sampling_rate) == (NUM_MEL_BINS, SAMPLING_RATE),
        f"sherpa-onnx streams features of {NUM_MEL_BINS} mel bins at {SAMPLING_RATE} Hz alone, and this model's are of"
        f" {features.num_mel_bins} at {features.sampling_rate} Hz: write another form, such as onnx",
    )


CARD = """# {name}

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
experts in int8; `decoder.onnx`, `joiner.onnx` and `tokens.txt` belong to the transducer and the last to both;
`test_wavs/0.wav` is a recording, and `test_wavs/trans.txt` what is spoken in it. The transducer in float32 finds:
*{text}*. The states of the graphs are those of a streaming zipformer2 (sherpa-onnx's `model_type`), the model itself is
a conformer.
"""


def _card(bundle: Bundle, chunking: Chunking, *, name: str, text: str) -> str:
    """The text of README.md."""
    assert chunking.left_context is not None
    manifest, config = bundle.manifest, bundle.config.model.encoder
    states = first_states(config, chunking, num_streams=1).values()
    size = num_features(chunking)
    return CARD.format(
        name=name,
        text=text,
        language=manifest.language,
        corpus=manifest.corpus,
        licence=manifest.licence,
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
    """A sentence about the chunks in which the model was trained."""
    sizes = ", ".join(str(size) if size else "the whole" for size in config.chunk_sizes)
    if not any(config.chunk_sizes):
        return "It was never trained in chunks (--chunk-sizes), so expect more errors than offline."
    contexts = ", ".join(str(frames) if frames else "all" for frames in config.left_contexts)
    return f"It was trained in chunks of {sizes} encoder frames, with left contexts of {contexts} frames."


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
