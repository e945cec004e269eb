"""A released model: one folder with everything that turns audio into text, and nothing that can run code."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.config import FRAME_LENGTH, Chunking, Config, FeatureConfig, load_config, require, save_config
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.methods import METHODS, one_method, used
from shared_moe_conformer.decoding.options import NOTHING, DecodingConfig, DecodingMethod, Resources, with_phrases
from shared_moe_conformer.decoding.searches import load_resources, resolved
from shared_moe_conformer.decoding.tuned_values import require_values, tuned_as, with_values
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.card import model_card
from shared_moe_conformer.release.manifest import (
    CARD_FILE,
    CONFIG_FILE,
    FILES,
    GRAPH_FILES,
    LM_FILES,
    MANIFEST_FILE,
    TEST_WAV,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    ExampleRecording,
    Manifest,
    read_manifest,
    write_manifest,
    write_test_text,
)
from shared_moe_conformer.release.transfer import ZOO, resolve
from shared_moe_conformer.release.weights import contiguous, load_model
from shared_moe_conformer.release.zoo_index import SUMS_FILE, require_small, verify_sums, write_sums
from shared_moe_conformer.speech.audio import write_wav
from shared_moe_conformer.speech.recognition import (
    LEAST,
    MAX_DURATION,
    WHOLE,
    OfflineRecognizer,
    Recording,
    Samples,
    Segment,
)
from shared_moe_conformer.speech.transcript import Transcript, transcript_of
from shared_moe_conformer.streaming import EndpointRules, Stream, StreamingRecognizer

DEFAULT_LEFT_CONTEXT = 128
"""Encoder frames that a stream remembers if the model was trained without a bound."""
MAX_READ = 1 << 24
"""Largest size of a file that is read whole, in bytes."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A released model, loaded: audio in, text out."""

    manifest: Manifest
    config: Config
    model: AsrModel
    """In evaluation mode; on the CPU unless `to` moved it."""
    tokenizer: Tokenizer
    folder: Path | None = None
    """Folder of its files; its decoding graph, if it has one, is read from there when a search first needs it."""

    @classmethod
    def load(cls, model: str | Path, *, zoo_dir: str | Path = ZOO, verify: bool = True) -> Bundle:
        """The bundle in a folder, or of a name in a zoo.

        Args:
          model: the folder that `save` wrote, a name in the zoo, or a name behind the address of another zoo
            (`https://example.org/zoo/NAME`, `hf://owner/zoo/NAME`), from which it is pulled if it is not here.
          zoo_dir: the folder of released models.
          verify: first compare every file with its SHA-256 sum.

        Raises:
          FileNotFoundError: no bundle there.
          ValueError: a file that is missing, changed, or not what this version can read; named.
        """
        folder = resolve(model, zoo_dir=Path(zoo_dir))
        require_small(folder, (SUMS_FILE, MANIFEST_FILE, CONFIG_FILE, *TOKENIZER_FILES), max_bytes=MAX_READ)
        manifest = read_manifest(folder)
        if verify:
            others = [name for name in (*GRAPH_FILES, *LM_FILES) if (folder / name).exists()]
            verify_sums(folder, required=[*FILES, *others])
        config = load_config(folder / CONFIG_FILE)
        tokenizer = Tokenizer.load(folder)
        require(
            tokenizer.vocab_size == config.model.vocab_size,
            f"{folder}: the tokenizer has {tokenizer.vocab_size} units, the model {config.model.vocab_size}",
        )
        _require_usable(manifest, path=folder / MANIFEST_FILE)
        network = load_model(config, folder / WEIGHTS_FILE, config_path=folder / CONFIG_FILE)
        return cls(manifest, config, network, tokenizer, folder)

    def save(
        self,
        folder: Path,
        *,
        lang_dir: Path,
        example: ExampleRecording,
        graph_files: Sequence[str] = (),
        lm_files: Sequence[str] = (),
        overwrite: bool = False,
    ) -> None:
        """Write the bundle; the folder appears whole or not at all.

        Args:
          lang_dir: holds the tokenizer's files; another bundle's folder does too.
          example: a recording whose transcript goes along.
          graph_files: files of the lang folder that make up its decoding graph, of `GRAPH_FILES`.
          lm_files: its language models over tokens, of `LM_FILES`.

        Raises:
          FileExistsError: the folder exists and may not be replaced.
        """
        with atomic_folder(folder, marker=MANIFEST_FILE, overwrite=overwrite) as new:
            write_manifest(self.manifest, new)
            save_config(self.config, new / CONFIG_FILE)
            (new / WEIGHTS_FILE).write_bytes(safetensors.torch.save(contiguous(self.model), {"format": "pt"}))
            for name in (*TOKENIZER_FILES, *graph_files, *lm_files):
                shutil.copyfile(lang_dir / name, new / name)
            card = model_card(self.manifest, self.config, graph_files=graph_files, lm_files=lm_files)
            (new / CARD_FILE).write_text(card, encoding="utf-8")
            write_wav(new / TEST_WAV, example.samples, sampling_rate=example.sampling_rate)
            expected = replace(self, folder=new).transcribe(new / TEST_WAV).text
            write_test_text(new, expected=expected, reference=example.reference)
            write_sums(new)

    def transcribe(
        self,
        audio: str | Path | np.ndarray,
        *,
        sampling_rate: float | None = None,
        decoding: DecodingConfig | None = None,
        vad: bool = False,
    ) -> Transcript:
        """The transcript of a recording of any length; one longer than half a minute is cut at silences.

        Args:
          audio: a file of any sampling rate, or samples (num_samples,) in -1..1.
          sampling_rate: rate of the samples, in Hz; a file says its own.
          decoding: the search; None: the bundle's own. 1best over HLG needs a bundle with a decoding graph.
          vad: believe words only where Silero VAD hears speech; music and noise then give none.

        Returns:
          The transcript; an empty one if the recording is too short for one encoder frame (70 ms).

        Raises:
          FileNotFoundError: no such file, or none that the search needs.
          ValueError: not audio, or a damaged decoding graph.
        """
        if isinstance(audio, (str, Path)):
            return next(self.transcribe_many([audio], decoding=decoding, vad=vad))
        if sampling_rate is None:
            raise ValueError("samples without sampling_rate: give it in Hz")
        return next(self.transcribe_many([Samples(audio, sampling_rate)], decoding=decoding, vad=vad))

    def transcribe_many(
        self,
        recordings: Iterable[Recording],
        *,
        decoding: DecodingConfig | None = None,
        vad: bool = False,
        max_duration: float = MAX_DURATION,
        progress: bool = False,
        on_error: Callable[[int, Exception], None] | None = None,
        on_experts: Callable[[Segment, Tensor], None] | None = None,
    ) -> Iterator[Transcript]:
        """The transcript of each of many recordings, in their order, as soon as it is known.

        Args:
          recordings: files, or `Samples`.
          decoding: the search; None: the bundle's own.
          vad: believe words only where Silero VAD hears speech.
          max_duration: seconds of audio, padding included, that are recognised together.
          progress: show a bar of seconds of audio on the standard error, where that is a terminal.
          on_error: called with the number (from 0) of a recording that cannot be read, whose transcript is then
            empty, and the error; None: the error is raised.
          on_experts: called with each segment, in any order, and the experts of its encoder frames, (L, T', K), as
            `routing.expert_layers` lists the L; a frame's most probable expert first. Not called without experts.
        """
        decoding = decoding or self.default_search
        recognizer = OfflineRecognizer(
            self.model,
            decoding,
            resources=_resources(self.folder, self.tokenizer, with_phrases(decoding)),  # a file may change meanwhile
            features=self.features,
            to_transcript=self._to_transcript,
            longest=self.manifest.segment_seconds or WHOLE,
            vad=vad,
        )
        return recognizer.transcribe(
            recordings, max_duration=max_duration, progress=progress, on_error=on_error, on_experts=on_experts
        )

    def recognizer(
        self,
        *,
        chunk_size: int | None = None,
        left_context: int | None = None,
        decoding: DecodingConfig | None = None,
        rules: EndpointRules | None = None,
        vad: bool = False,
    ) -> StreamingRecognizer:
        """A recogniser of streams, which it takes in batches.

        Args:
          chunk_size: encoder frames of a chunk, of 40 ms each; None: the largest that the model was trained with.
          left_context: frames before its chunk that a frame attends to; None: the same.
          decoding: the search; None: the bundle's own. Its chunk size, if it has one, must be `chunk_size`.
          rules: rules by which segments end; None: sherpa-onnx's.
          vad: believe words only where Silero VAD hears speech.

        Raises:
          ValueError: the model needs whole utterances, or was trained only on these and there is no chunk_size; no such
            search, or one for another chunk size.
        """
        encoder = self.config.model.encoder
        self.model.encoder.refuse_chunks(Chunking(1))
        require(
            chunk_size is not None or any(encoder.chunk_sizes),
            f"{self.manifest.name} was not trained to stream (--chunk-sizes 0,8,16,32): give chunk_size to try"
            " it nevertheless",
        )
        decoding = decoding or self.default_search
        method = one_method(decoding)
        require(
            decoding.chunk_size in (0, chunk_size),
            f"decoding asks for chunks of {decoding.chunk_size} frames, and chunk_size is {chunk_size}: give"
            f" chunk_size={decoding.chunk_size}",
        )
        resources = _resources(self.folder, self.tokenizer, with_phrases(decoding))
        own, *_ = resolved(decoding, vocab_size=self.tokenizer.vocab_size)
        return StreamingRecognizer(
            self.model,
            method.search(self.model, own, resources),
            features=self._feature_config,
            to_transcript=self._to_transcript,
            chunk_size=max(encoder.chunk_sizes) if chunk_size is None else chunk_size,
            left_context=(max(encoder.left_contexts) or DEFAULT_LEFT_CONTEXT) if left_context is None else left_context,
            rules=rules or EndpointRules(),
            vad=vad,
        )

    def stream(self, **options: Any) -> Stream:
        """A single stream: `stream.accept(samples, sampling_rate)`, `stream.result`, `stream.finish()`.

        Args:
          options: those of `recognizer`.
        """
        return self.recognizer(**options).stream()

    @property
    def default_search(self) -> DecodingConfig:
        """The search that the manifest names, at the values that were tuned for it, if any."""
        config = DecodingConfig(decoding_method=cast(DecodingMethod, self.manifest.decoding_method))
        return with_values(config, self.manifest.decoding_options.get(tuned_as(config), {}))

    def features(self, samples: np.ndarray, sampling_rate: int) -> Tensor:
        """Features (T, F) of samples, (num_samples,), at a rate in Hz."""
        require(samples.ndim == 1, f"samples have the shape {samples.shape}: give one channel, (num_samples,)")
        require(bool(np.isfinite(samples).all()), "the recording holds infinite or undefined samples")
        if len(samples) < FRAME_LENGTH * sampling_rate:
            return torch.zeros(0, self.config.features.num_mel_bins)
        return compute_features(samples, sampling_rate, self._feature_config)

    def to(self, device: torch.device) -> Bundle:
        """This bundle, its model moved to a device."""
        self.model.to(device)
        return self

    @property
    def _feature_config(self) -> FeatureConfig:
        """The model's features by Lhotse's extractor, which every environment has (kaldifeat's agree to 1e-3)."""
        return replace(self.config.features, feature_extractor="lhotse")

    def _to_transcript(self, segments: Sequence[tuple[float, Hypothesis]]) -> Transcript:
        return transcript_of(segments, pieces=self.tokenizer.pieces, decode=self.tokenizer.decode)


def _require_usable(manifest: Manifest, *, path: Path) -> None:
    """Refuse searches, their options and segments that cannot be; `path` is the manifest's file."""
    require(
        manifest.decoding_method in METHODS,
        f"{path}: no decoding method is called {manifest.decoding_method!r}",
    )
    for method, values in manifest.decoding_options.items():
        try:
            require_values(method, values)
        except ValueError as error:
            raise ValueError(f"{path}: decoding_options: {error}") from error
    seconds = manifest.segment_seconds
    require(
        seconds is None or LEAST <= seconds <= WHOLE,
        f"{path}: segment_seconds is {seconds}: it must be {LEAST:g} to {WHOLE:g}",
    )


@functools.lru_cache(maxsize=4)
def _resources(folder: Path | None, tokenizer: Tokenizer, decoding: DecodingConfig) -> Resources:
    """The files that a search needs besides the model, read from the bundle's folder."""
    needed = used(decoding) if decoding.decoding_method in METHODS else []
    if not needed:
        return NOTHING
    if "word_graph" in needed and (folder is None or not (folder / GRAPH_FILES[0]).is_file()):
        raise FileNotFoundError(
            f"{folder or 'this model'} has no decoding graph: release it with one (./export.py --with-graph), or "
            "search with --graph H"
        )
    decoding = resolved(decoding, vocab_size=tokenizer.vocab_size)[0]
    return load_resources([decoding], folder or Path(), tokenizer).resources
