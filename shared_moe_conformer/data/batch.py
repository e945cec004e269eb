"""The batches that the model is trained and decoded on, and how cuts become batches."""

from __future__ import annotations

import functools
import logging
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lhotse import CutSet, MonoCut, Recording, RecordingSet
from lhotse.cut import Cut
from lhotse.dataset.cut_transforms import Compress, CutMix, PerturbSpeed, ReverbWithImpulseResponse
from lhotse.utils import LOG_EPSILON
from torch import Tensor
from torch.utils.data import Dataset

from shared_moe_conformer.config import Config, DataConfig, FeatureConfig, require
from shared_moe_conformer.data.augment import Conditions, Example, spec_augment, time_warped, with_silence
from shared_moe_conformer.data.checks import unfit
from shared_moe_conformer.data.distortions import Distortion, Setting
from shared_moe_conformer.data.features import compute_features, features_of, readable
from shared_moe_conformer.data.manifests import iterate_cut_file
from shared_moe_conformer.data.shar import Unreadable
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.text import first_line

logger = logging.getLogger("shared_moe_conformer")
MOST_NOISES = 100
"""Pieces of noise among which a batch's are drawn."""
CODEC_LEVELS = (0.75, 0.98)
"""Lowest and highest compression, as Lhotse means it: of Opus 69 to 11 kbit/s. Source: libsndfile, ogg_opus.c."""
Transform = Callable[[CutSet], CutSet]


class AsrBatch(NamedTuple):
    """Utterances of similar length, padded."""

    x: Tensor
    """Features, (N, T, F), float; padding is the logarithm of nearly no energy."""
    x_lens: Tensor
    """Valid frames, (N,), int64."""
    y: Tensor
    """Token ids, (N, U), int64, padded with 0."""
    y_lens: Tensor
    """Valid tokens, (N,), int64."""
    cut_ids: list[str]
    texts: list[str]
    num_copies: int = 1
    """Copies of the utterances, one after the other, with SpecAugment's masks of their own; N counts them all."""
    clean: Tensor | None = None
    """Features, (N, T, F), without masks and conditions, where a teacher hears these; utterances that noise replaced
    are noise here too."""

    def to(self, device: torch.device) -> AsrBatch:
        """The batch with its tensors on a device."""
        x, x_lens, y, y_lens = (tensor.to(device, non_blocking=True) for tensor in self[:4])
        clean = None if self.clean is None else self.clean.to(device, non_blocking=True)
        return self._replace(x=x, x_lens=x_lens, y=y, y_lens=y_lens, clean=clean)


class NothingReadable(ValueError):
    """No cut of a batch could be read."""


class PlannedBatch(NamedTuple):
    """The cuts of a batch, and the seed of its silence, noise and SpecAugment (None: none of these)."""

    cuts: Iterable[MonoCut]
    seed: int | None


@dataclass
class CutDataset(Dataset):
    """Loads planned batches. A batch follows from its plan alone, so the number of workers changes nothing."""

    tokenizer: Tokenizer
    config: DataConfig
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Options of the features that are not stored; they are computed cut by cut, as preparation does."""
    transforms: CutTransforms | None = None
    """Changes of the cuts of training batches before they are read."""
    conditions: Conditions | None = None
    """Changes of the features of training utterances."""
    num_copies: int = 1
    """Copies of each training utterance in its batch, each with masks of its own."""
    unreadable: Unreadable = field(default_factory=Unreadable)
    """Cuts that batches do without."""
    keep_clean: bool = False
    """Whether training batches also hold the utterances without masks and conditions."""

    def __getitem__(self, planned: PlannedBatch) -> AsrBatch:
        if planned.seed is None:
            return collate(self.examples(planned.cuts))
        cuts = planned.cuts if self.transforms is None else self.transforms(planned.cuts, seed=planned.seed)
        examples = self.examples(cuts)
        generator = torch.Generator().manual_seed(planned.seed)
        clean = heard = [
            self._warped(example, generator) for example in with_silence(examples, self.config, generator=generator)
        ]
        if self.conditions is not None:
            changed = [self.conditions(example, generator) for example in clean]
            heard = changed if any(example.tokens for example in changed) else clean  # one at least keeps its text
        copies = zip(*(self._augmented(example, generator) for example in heard))
        batch = collate([example for copy in copies for example in copy], num_copies=self.num_copies)
        if not self.keep_clean:
            return batch
        same_texts = [own if own.text == as_heard.text else as_heard for own, as_heard in zip(clean, heard)]
        return batch._replace(clean=collate(same_texts * self.num_copies).x)

    def of_epoch(self, epoch: int) -> CutDataset:
        """The dataset of an epoch; the first `conditions_after` epochs have no conditions."""
        return self if epoch > self.config.conditions_after else replace(self, conditions=None)

    def examples(self, cuts: Iterable[MonoCut]) -> list[Example]:
        """The cuts without augmentation; `NothingReadable`: there are none."""
        examples = [example for cut in cuts if (example := self._example(cut)) is not None]
        if not examples:
            raise NothingReadable("no cut of a batch can be read")
        return examples

    def _example(self, cut: Cut) -> Example | None:
        """One cut; None if it cannot be read and may be left out."""
        try:
            features = self.features_of(cut)
        except ValueError as error:
            self.unreadable.note(error)
            return None
        text = cut.supervisions[0].text
        return Example(features, self.tokenizer.encode([text])[0], cut.id, text)

    def features_of(self, cut: MonoCut) -> Tensor:
        """The features (T, F) of a cut; `ValueError`: they cannot be read, or computed from its recording."""
        return features_of(cut, self.features)

    def _warped(self, example: Example, generator: torch.Generator) -> Example:
        warped = time_warped(example.features, self.config.time_warp_frames, generator=generator)
        return example._replace(features=warped)

    def _augmented(self, example: Example, generator: torch.Generator) -> list[Example]:
        """The copies of an utterance, each with masks of its own."""
        masked = (spec_augment(example.features, self.config, generator=generator) for _ in range(self.num_copies))
        return [example._replace(features=copy) for copy in masked]


def collate(examples: Sequence[Example], *, num_copies: int = 1) -> AsrBatch:
    """A batch of utterances; the examples hold all of the first copy, then all of the second."""
    features, tokens, cut_ids, texts = map(list, zip(*examples))
    x = features[0].new_empty(len(features), max(map(len, features)), features[0].size(1))
    for row, own in zip(x, features):  # pad_sequence would write every frame twice
        row[: len(own)], row[len(own) :] = own, LOG_EPSILON
    y = torch.nn.utils.rnn.pad_sequence([torch.tensor(t, dtype=torch.int64) for t in tokens], batch_first=True)
    x_lens, y_lens = (torch.tensor([len(part) for part in parts]) for parts in (features, tokens))
    return AsrBatch(x, x_lens, y, y_lens, cut_ids, texts, num_copies)


class DistortedDataset(CutDataset):
    """Computes features from distorted recordings; the stored ones are not read.

    What is random follows from a cut's id: it is the same in every batch, and at every value of a distortion.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, cuts: Sequence[MonoCut], distortion: Distortion) -> None:
        """Check what is needed; no recording is read yet.

        Raises:
          ValueError: a cut without a recording, or no second cut for babble.
        """
        super().__init__(tokenizer, config.data, config.features)
        self.cuts, self.distortion = cuts, distortion
        silent = [cut.id for cut in cuts if not cut.has_recording]
        require(not silent, f"--distort needs recordings: {len(silent)} cuts have features alone, {silent[:1]} first")
        needs_others = any(kind == "babble" for kind, _ in distortion.steps)
        require(
            len(cuts) > 1 or not needs_others, f"--distort {distortion.name}: babble is made of the set's other cuts"
        )
        for kind, value in distortion.steps:
            if kind == "band" and value >= (highest := config.features.sampling_rate / 2):
                message = "--distort %s changes nothing: at %d Hz nothing is above %g Hz"
                logger.warning(message, distortion.name, config.features.sampling_rate, highest)

    def features_of(self, cut: MonoCut) -> Tensor:
        rng = np.random.default_rng(zlib.crc32(cut.id.encode()))
        setting = Setting(cut.sampling_rate, rng, lambda: self._other(cut, rng))
        return compute_features(self.distortion(_samples(cut), setting), cut.sampling_rate, self.features)

    def _other(self, cut: MonoCut, rng: np.random.Generator) -> np.ndarray:
        """The samples of another cut."""
        while (other := self.cuts[int(rng.integers(len(self.cuts)))]).id == cut.id:
            pass
        return _samples(other)


def _samples(cut: MonoCut) -> np.ndarray:
    with readable(cut):
        return np.asarray(cut.load_audio()[0])


@dataclass
class CutTransforms:
    """Changes of the cuts of a training batch by Lhotse's transforms, before they are read; a seed decides all of them.

    Cuts with stored features get noises' features, each piece at the ratio to the whole utterance, as in icefall.
    Others get another speed, a room, noises' samples and a codec.
    Levels need no transform here: a gain is exact on features (`Conditions`). Nor do Lhotse's made rooms, which follow
    no seed and need torchaudio.
    """

    config: DataConfig
    sampling_rate: int
    """Sampling rate of the audio, in Hz."""
    noises: Sequence[Cut] = ()
    rooms: Sequence[Recording] = ()
    """Impulse responses at that rate."""

    @classmethod
    def of(cls, config: DataConfig, features: FeatureConfig, recipe_dir: Path) -> CutTransforms | None:
        """The transforms that a config asks for; None where it asks for none.

        Raises:
          FileNotFoundError, ValueError: noises or rooms are missing or cannot be used.
        """
        if not (config.noise_manifest or config.on_the_fly):
            return None
        rooms = _rooms(recipe_dir / config.room_manifest, features, recipe_dir) if config.room_manifest else []
        noises = _noises(recipe_dir / config.noise_manifest, features, recipe_dir) if config.noise_manifest else []
        return cls(config, features.sampling_rate, noises, rooms)

    def __call__(self, cuts: Iterable[Cut], *, seed: int) -> list[Cut]:
        """As many cuts, with the same ids and texts, in the same order.

        Raises:
          ValueError: the noises have no features for these cuts, or no recordings.
        """
        rng, cuts = random.Random(seed), list(cuts)
        stored = [cut for cut in cuts if cut.has_features]
        recorded = [cut.resample(self.sampling_rate) for cut in cuts if not cut.has_features]
        changed = {
            True: iter(_applied(self._noise(stored, rng), stored)),
            False: iter(_applied([*self._room(rng), *self._noise(recorded, rng), *self._codec(rng)], recorded)),
        }
        return [next(changed[cut.has_features]) for cut in cuts]

    def longest(self, cut: Cut) -> Cut:
        """A cut as long as the speeds can make it."""
        slowest = min((1.0, *self.config.speed_factors))
        return cut if cut.has_features or slowest == 1 else cut.perturb_speed(slowest)

    def _room(self, rng: random.Random) -> Iterator[Transform]:
        if speeds := list(self.config.speed_factors):
            yield PerturbSpeed(speeds, p=len(speeds) / (len(speeds) + 1), randgen=rng, preserve_id=True)
        if rooms := self.rooms:
            yield ReverbWithImpulseResponse(rooms, p=self.config.room_probability, randgen=rng, preserve_id=True)

    def _noise(self, cuts: Sequence[Cut], rng: random.Random) -> Iterator[Transform]:
        """The noises of this batch; Lhotse would shuffle all that there are."""
        if not self.noises or not cuts or not self.config.noise_probability:
            return
        kind = "features" if cuts[0].has_features else "recording"
        drawn = rng.sample(self.noises, min(len(self.noises), MOST_NOISES))
        for noise in drawn:
            require(
                getattr(noise, f"has_{kind}"),
                f"noise {noise.id} has no {kind}, which cut {cuts[0].id} needs: give the other --noise-manifest, of "
                "data/fbank for cuts with stored features and of data/manifests for others",
            )
        if kind == "recording":
            drawn = [noise.drop_features().resample(self.sampling_rate) for noise in drawn]
        yield CutMix(
            CutSet(drawn),
            snr=self.config.noise_snr,
            p=self.config.noise_probability,
            pad_to_longest=False,
            preserve_id=True,
            seed=rng,
            random_mix_offset=True,
        )

    def _codec(self, rng: random.Random) -> Iterator[Transform]:
        if self.config.codec_probability:
            codecs, p = list(self.config.codecs), self.config.codec_probability
            yield Compress(codecs, CODEC_LEVELS, p=p, seed=None, rng=rng, preserve_id=True)  # type: ignore[arg-type]


def _applied(transforms: Iterable[Transform], cuts: Sequence[Cut]) -> Iterable[Cut]:
    return functools.reduce(lambda changed, transform: transform(changed), transforms, CutSet(cuts)) if cuts else ()


def _noises(path: Path, features: FeatureConfig, recipe_dir: Path) -> list[Cut]:
    """Cuts of noise, whose texts nobody says."""
    cuts = [cut.drop_supervisions() for cut in iterate_cut_file(path, recipe_dir=recipe_dir)]
    wrong = [f"{cut.id}: {reason}" for cut in cuts if (reason := unfit(cut, features))]
    require(not wrong, f"{len(wrong)} noises in {path} cannot be used, first {wrong[:1]}")
    return cuts


def _rooms(path: Path, features: FeatureConfig, recipe_dir: Path) -> list[Recording]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no recordings of rooms in {path}: write a manifest, as `lhotse prepare rir-noise` does"
        )
    try:
        rooms = RecordingSet.from_file(path).with_path_prefix(recipe_dir)
        return [room.resample(features.sampling_rate) for room in rooms]
    except Exception as error:  # manifests of other things have their own
        raise ValueError(f"{path} is not a manifest of recordings: {first_line(error)}") from error
