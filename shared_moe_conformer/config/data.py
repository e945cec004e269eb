"""Options of features, data and batches, and the geometry of frames: how feature frames and encoder frames lie in time.

A feature frame is 25 ms long; frame i is centred at 10 i + 5 ms (Kaldi's snip_edges=False). The front end's two
convolutions of kernel 3 and stride 2 pad nothing, so encoder frame t sees the feature frames 4 t to 4 t + 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from shared_moe_conformer.config.tree import ADDED_LATER, require, require_choices, require_least

FeatureExtractor = Literal["lhotse", "kaldifeat"]

FRAME_LENGTH = 0.025
"""Seconds of audio in a feature frame."""
FRAME_SHIFT = 0.01
"""Seconds from one feature frame to the next."""
FRAMES_PER_SECOND = 100
"""Feature frames of a second of audio."""
SUBSAMPLING_FACTOR = 4
"""Feature frames from one encoder frame to the next."""
ENCODER_FRAME_SHIFT = 0.04
"""Seconds from one encoder frame to the next."""
MIN_NUM_FRAMES = 7
"""Feature frames that one encoder frame sees; shorter recordings have none."""

Length = TypeVar("Length", int, Any)  # Any: a tensor, for which this module need not import torch


def subsampled_length(num_frames: Length) -> Length:
    """Encoder frames of `num_frames` feature frames, an int or a tensor; 0 where there are fewer than 7."""
    length = ((num_frames - 1) // 2 - 1) // 2
    return max(length, 0) if isinstance(length, int) else length.clamp(min=0)


def frame_centre(frame: float) -> float:
    """Time of an encoder frame's centre in the recording, in seconds: 0.035 for frame 0, then 0.04 more each.

    This is the centre of the middle one (4 t + 3) of the seven feature frames that encoder frame t sees.
    """
    return round((SUBSAMPLING_FACTOR * frame + MIN_NUM_FRAMES // 2 + 0.5) * FRAME_SHIFT, 3)


@dataclass(frozen=True)
class FeatureConfig:
    """Options of the features (N, T, F) that are computed from audio."""

    sampling_rate: int = 16000
    """Rate that every recording is resampled to, in Hz; a multiple of 100."""
    num_mel_bins: int = 80
    """Mel filters per frame; a frame is 25 ms long, every 10 ms."""
    feature_extractor: FeatureExtractor = "lhotse"
    """Library that computes the Kaldi-compatible filter banks; both agree to 1e-3 (kaldifeat: `make kaldifeat`)."""

    def __post_init__(self) -> None:
        require(
            8000 <= self.sampling_rate <= 192_000 and self.sampling_rate % FRAMES_PER_SECOND == 0,
            f"sampling_rate is {self.sampling_rate} Hz: give 8000 to 192000, in hundreds: frames are 10 ms apart",
        )
        require_least(self, 16, "num_mel_bins")
        require_choices(self)


CODECS = ("opus", "mp3", "vorbis", "gsm")
"""Names that codecs may have. Source: lhotse.dataset.cut_transforms.Compress."""
MADE_NOISES = ("white", "pink", "hum", "babble", "music")
"""Names that made_noises may have."""
RANGES = (
    ("noise_snr", "decibel", -math.inf),
    ("gain_range", "decibel", -math.inf),
    ("made_noise_snr", "decibel", -math.inf),
    ("reverb_time", "seconds", 0.01),
    ("band_limit", "Hz", 100.0),
)
"""Options that are ranges, their units, and the lowest that each may be."""


@dataclass(frozen=True)
class DataConfig:
    """Cut sets and how training batches are made of them. Paths are relative to the recipe's folder."""

    corpus: str = "unknown"
    """Name of the corpus, as a released model states it."""
    language: str = "und"
    """Language of the speech, a BCP-47 code; several with commas between them."""
    licence: str = "unknown"
    """Licence of the corpus, an SPDX identifier; a model released from it states the same."""
    manifest_dir: str = "data/fbank"
    """Folder of the cut sets cuts_<split>.jsonl.gz with their features."""
    train_split: str = "train"
    """Split to train on."""
    train_cuts: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Other cuts to train on instead of the split: manifests (.jsonl.gz), folders of Shar, JSON lists of shards' URLs;
    with stored features or only recordings; with num_steps each may end in @WEIGHT; empty: the split."""
    buffer_cuts: int = field(default=2000, metadata=ADDED_LATER)
    """Cuts of train_cuts from which each worker draws a batch; more cuts mix better and take more memory (those of
    Shar are held with their audio)."""
    max_unreadable: int = field(default=0, metadata=ADDED_LATER)
    """Unreadable shards and cuts of train_cuts that each process may leave out of an epoch; each is named, and one more
    ends the training."""
    dev_split: str = "dev"
    """Split to validate on."""
    test_splits: tuple[str, ...] = ("test",)
    """Splits that decode.py decodes."""
    lang_dir: str = "data/lang_bpe_500"
    """Folder of the tokenizer: bpe.model and tokens.txt."""
    max_duration: float = 200.0
    """Audio in a batch, in seconds."""
    num_buckets: int = 10
    """Duration buckets from which batches are drawn, so that little is padding."""
    num_workers: int = 1
    """Processes that load batches; 0: the training process itself."""
    num_time_masks: int = 2
    """Time masks of SpecAugment per utterance; 0: none."""
    max_time_mask_fraction: float = 0.15
    """Largest share of an utterance's frames that its time masks cover together."""
    num_freq_masks: int = 2
    """Frequency masks of SpecAugment per utterance; 0: none."""
    max_freq_mask_bins: int = 20
    """Widest frequency mask, in mel bins."""
    time_warp_frames: int = field(default=0, metadata=ADDED_LATER)
    """Time warp of SpecAugment: the frame that moves most moves by up to this many frames, in all copies and for the
    teacher alike (icefall: 80); 0: none."""
    join_probability: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the training batches whose utterances are joined in twos or threes, with silence between; 0: none."""
    silence_probability: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the training utterances that begin and end with up to half a second of silence; 0: none."""
    noise_manifest: str = field(default="", metadata=ADDED_LATER)
    """Cuts of noise to mix into training, e.g. data/fbank/cuts_musan.jsonl.gz; for cuts without stored features those
    of data/manifests, which have only recordings; empty: none."""
    noise_probability: float = field(default=0.5, metadata=ADDED_LATER)
    """Share of the utterances that get noise, where there is a noise_manifest (icefall's)."""
    noise_snr: tuple[float, float] = field(default=(10.0, 20.0), metadata=ADDED_LATER)
    """Lowest and highest ratio of speech to noise, in decibel; uniformly random between them (icefall's)."""
    speed_factors: tuple[float, ...] = field(default=(), metadata=ADDED_LATER)
    """Speeds, each as frequent as the cut's own, e.g. 0.9,1.1; this option and the next four are for cuts of train_cuts
    without stored features; empty: none."""
    room_manifest: str = field(default="", metadata=ADDED_LATER)
    """Recordings of rooms' impulse responses, as `lhotse prepare rir-noise` makes them; empty: none."""
    room_probability: float = field(default=0.5, metadata=ADDED_LATER)
    """Share of the utterances that are placed in a room of the room_manifest."""
    codec_probability: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the utterances that are coded with one of the codecs; 0: none."""
    codecs: tuple[str, ...] = field(default=CODECS, metadata=ADDED_LATER)
    """The codecs to choose from; gsm is that of telephones."""
    conditions_after: int = field(default=0, metadata=ADDED_LATER)
    """Epochs before gains, made noises, rooms and band limits, the options that follow, begin: a small model learns
    sooner from recordings as they are."""
    gain_probability: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the training utterances that become louder or quieter by a random gain; 0: none."""
    gain_range: tuple[float, float] = field(default=(-30.0, 6.0), metadata=ADDED_LATER)
    """Lowest and highest of these gains, in decibel."""
    made_noise_probability: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the training utterances that get noise of the made_noises; 0: none."""
    made_noises: tuple[str, ...] = field(default=MADE_NOISES, metadata=ADDED_LATER)
    """Noises that need no download; babble is made from the training split."""
    made_noise_snr: tuple[float, float] = field(default=(5.0, 30.0), metadata=ADDED_LATER)
    """Lowest and highest ratio of speech to these noises, in decibel, defined as for decode.py's --distort."""
    noise_alone_probability: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the training utterances that are replaced by noise of the made_noises, with an empty text; 0: none."""
    reverb_probability: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the training utterances that sound as in a room; 0: none."""
    reverb_time: tuple[float, float] = field(default=(0.1, 0.8), metadata=ADDED_LATER)
    """Shortest and longest time in which a room's sound decays by 60 dB, in seconds."""
    band_limit_probability: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the training utterances that have nothing above a random frequency; 0: none."""
    band_limit: tuple[float, float] = field(default=(3000.0, 7000.0), metadata=ADDED_LATER)
    """Lowest and highest of these frequencies, in Hz; 3400 is a telephone's."""

    def __post_init__(self) -> None:
        require(self.max_duration > 0, f"max_duration is {self.max_duration} s: give a positive number")
        require_least(self, 1, "num_buckets", "buffer_cuts")
        require_least(
            self,
            0,
            "num_workers",
            "conditions_after",
            "max_unreadable",
            "num_time_masks",
            "num_freq_masks",
            "max_freq_mask_bins",
            "time_warp_frames",
        )
        for name in (f.name for f in fields(self) if f.name.endswith(("_fraction", "_probability"))):
            require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}: give a number from 0 to 1")
        for name, unit, lowest in RANGES:
            value = getattr(self, name)
            require(
                len(value) == 2 and lowest <= value[0] <= value[1],
                f"{name} is {value}: give the lowest and the highest, in {unit}, e.g. {_example(name)}",
            )
        for name, names in (("made_noises", MADE_NOISES), ("codecs", CODECS)):
            chosen = getattr(self, name)
            require(
                len(chosen) > 0 and set(chosen) <= set(names),
                f"{name} is {','.join(chosen)}: give one or more of {','.join(names)}",
            )
        require(
            all(0.5 <= factor <= 2 for factor in self.speed_factors),
            f"speed_factors is {self.speed_factors}: give factors from 0.5 to 2, e.g. 0.9,1.1",
        )
        require(
            bool(self.train_cuts) or not self.on_the_fly,
            "speed_factors, room_manifest and codec_probability are for audio: give --train-cuts without features,"
            " e.g. data/manifests/cuts_train.jsonl.gz",
        )

    @property
    def on_the_fly(self) -> bool:
        """Whether options other than noise change the audio of cuts without stored features."""
        return bool(self.speed_factors or self.room_manifest or self.codec_probability)


def _example(name: str) -> str:
    """The default of a range, as a flag gives it."""
    (default,) = (f.default for f in fields(DataConfig) if f.name == name)
    return ",".join(f"{value:g}" for value in default)  # type: ignore[union-attr]
