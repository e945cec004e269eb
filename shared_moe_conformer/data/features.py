"""Log mel filter banks of a recording, whole or as it comes; and of a whole split, stored beside its manifest.

Preparation, by one process or many, and recognition share this definition.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, Fbank, FbankConfig, FeatureExtractor, LilcomChunkyWriter, MonoCut, validate
from lhotse.augmentation import AugmentFn, Resample
from lhotse.cut import Cut
from torch import Tensor, nn
from tqdm import tqdm

from shared_moe_conformer.atomic import is_full, named
from shared_moe_conformer.config import FRAME_LENGTH, FRAME_SHIFT, FRAMES_PER_SECOND, FeatureConfig, require
from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from shared_moe_conformer.data.replaced import known_sources, record_path, write_record
from shared_moe_conformer.device import in_order, processes
from shared_moe_conformer.text import first_line

DIGITAL_SILENCE = math.log(torch.finfo(torch.float32).eps)
"""The feature of samples that are 0. Source: Kaldi, feature-fbank.cc: energies are floored at float32's epsilon."""
FILTER_REACH = 10
"""Inputs, or outputs if they are fewer, on both sides of an output that it depends on.

Source: scipy.signal.resample_poly, which Lhotse takes; torchaudio's filter, which it takes where there is one, is
shorter.
"""
CONTEXT = 2
"""Frames before the new ones that are computed again, so that the extractor's own edge touches none of the new."""
CUTS_PER_FILE = 200
COARSE_TICK, FINE_TICK = -5, -20
"""Powers of two to whose multiples lilcom rounds: Lhotse's, and the finest that it can."""


@functools.lru_cache(maxsize=8)
def feature_extractor(config: FeatureConfig) -> FeatureExtractor:
    """Lhotse's extractor of Kaldi-compatible filter banks that the config asks for.

    Raises:
      ValueError: kaldifeat is asked for and not installed.
    """
    return _lhotse_fbank(config) if config.feature_extractor == "lhotse" else _kaldifeat_fbank(config)


def filter_banks(config: FeatureConfig) -> nn.Module:
    """The network of Lhotse's extractor, which TorchScript can hold: samples (N, num_samples) to features (N, T, F)."""
    return _lhotse_fbank(config).extractor


def compute_features(samples: np.ndarray, sampling_rate: int, config: FeatureConfig) -> Tensor:
    """Features of one recording, (T, F), as `store_features` computes them.

    Args:
      samples: one channel, (num_samples,), from -1 to 1.
      sampling_rate: of the samples, in Hz; they are resampled to the config's.

    Raises:
      ValueError: several channels, or less than a frame.
    """
    require(samples.ndim == 1, f"samples of shape {samples.shape}: give one channel, (num_samples,)")
    require(
        len(samples) >= FRAME_LENGTH * sampling_rate,
        f"{len(samples)} samples at {sampling_rate} Hz: the recording is shorter than a frame, {FRAME_LENGTH} s",
    )
    resampled = resample(samples, sampling_rate, config.sampling_rate)
    return torch.as_tensor(feature_extractor(config).extract(resampled, config.sampling_rate))


def features_of(cut: Cut, config: FeatureConfig) -> Tensor:
    """Features (T, F) of a cut, stored or else computed from its recording as `store_features` does.

    Raises:
      ValueError: they cannot be read, or computed from the recording.
    """
    with readable(cut):
        if cut.has_features:
            return torch.from_numpy(cut.load_features())
        at_rate = cut if cut.sampling_rate == config.sampling_rate else cut.resample(config.sampling_rate)
        return torch.as_tensor(at_rate.compute_features(feature_extractor(config)))


@contextmanager
def readable(cut: Cut) -> Iterator[None]:
    """Raise `ValueError`, with the cut's name, in place of any error of the block."""
    try:
        yield
    except Exception as error:  # audio backends and storages have their own
        raise ValueError(f"cut {cut.id} cannot be read: {first_line(error)}") from error


def resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Samples (num_samples,) at another rate, as Lhotse's `Recording.resample` computes them."""
    channels = np.ascontiguousarray(samples, dtype=np.float32)[None]
    return np.asarray(Resample(source_rate, target_rate)(channels))[0]


def _lhotse_fbank(config: FeatureConfig) -> Fbank:
    return Fbank(FbankConfig(sampling_rate=config.sampling_rate, num_mel_bins=config.num_mel_bins))


def _kaldifeat_fbank(config: FeatureConfig) -> FeatureExtractor:
    require(
        importlib.util.find_spec("kaldifeat") is not None,
        "kaldifeat is not installed: run `make kaldifeat`, or --feature-extractor lhotse",
    )
    from lhotse.features import kaldifeat

    frames = kaldifeat.KaldifeatFrameOptions(sampling_rate=config.sampling_rate)
    mels = kaldifeat.KaldifeatMelOptions(num_bins=config.num_mel_bins)
    return kaldifeat.KaldifeatFbank(kaldifeat.KaldifeatFbankConfig(frame_opts=frames, mel_opts=mels))


class LiveFeatures:
    """Features (T, F) of one channel that comes in parts, at any sampling rate.

    A frame depends on the samples around it alone. So the last samples are kept, and resampled and computed again with
    the next part; those frames are returned that no edge of the kept samples touches.
    """

    def __init__(self, config: FeatureConfig, sampling_rate: int) -> None:
        """Samples will come at `sampling_rate`, in Hz."""
        require(1 <= sampling_rate <= 1_000_000, f"sampling_rate is {sampling_rate} Hz: give that of the samples")
        self.sampling_rate = sampling_rate
        self._config = config
        self._shift = round(FRAME_SHIFT * config.sampling_rate)
        self._window_reach = round((FRAME_LENGTH + FRAME_SHIFT) / 2 * config.sampling_rate)
        """Samples, after resampling, from where a frame's shift begins to where its window ends."""
        divisor = math.gcd(sampling_rate, config.sampling_rate)
        self._down, self._up = sampling_rate // divisor, config.sampling_rate // divisor
        is_resampled = self._down != self._up
        self._filter_reach = math.ceil(FILTER_REACH * max(1, self._down / self._up)) + 1 if is_resampled else 0
        self._context = CONTEXT + math.ceil(self._filter_reach * FRAMES_PER_SECOND / sampling_rate)
        step = math.lcm(self._shift, self._up)
        self._step = step // self._shift, step // self._up * self._down
        """A number of frames, and the number of samples in the same time; after it both begin together again."""
        self._samples = np.zeros(0, dtype=np.float32)
        self._first = self._next = 0  # frame at which the samples begin, and the next to return

    def accept(self, samples: np.ndarray) -> Tensor:
        """The frames that the next samples, (num_samples,) from -1 to 1, make certain.

        Raises:
          ValueError: several channels, or samples that are no numbers.
        """
        require(samples.ndim == 1, f"samples of shape {samples.shape}: give one channel, (num_samples,)")
        require(bool(np.isfinite(samples).all()), "there are infinite or undefined samples: give them from -1 to 1")
        self._samples = np.concatenate([self._samples, samples])
        certain = max(self._num_samples - self._filter_reach, 0) * self._up // self._down
        return self._frames(up_to=(certain - self._window_reach) // self._shift + 1)

    def finish(self) -> Tensor:
        """The last frames, whose windows are mirrored at the end; as many as the whole recording has."""
        num_resampled = -(-self._num_samples * self._up // self._down)
        is_enough = num_resampled >= FRAME_LENGTH * self._config.sampling_rate
        return self._frames(up_to=(num_resampled + self._shift // 2) // self._shift if is_enough else 0)

    @property
    def _num_samples(self) -> int:
        """All that have come."""
        frames, samples = self._step
        return self._first // frames * samples + len(self._samples)

    def _frames(self, *, up_to: int) -> Tensor:
        if up_to <= self._next:
            return torch.zeros(0, self._config.num_mel_bins)
        rate, samples = self._config.sampling_rate, self._samples
        resampled = samples if self.sampling_rate == rate else resample(samples, self.sampling_rate, rate)
        features = torch.as_tensor(feature_extractor(self._config).extract(resampled, rate))
        new = features[self._next - self._first : up_to - self._first]
        self._next = up_to
        step, step_samples = self._step
        first = max(up_to - self._context, 0) // step * step
        self._samples = samples[(first - self._first) // step * step_samples :]
        self._first = first
        return new


def store_features(
    cuts: Iterable[MonoCut],
    split: str,
    *,
    directory: Path,
    config: FeatureConfig,
    num_jobs: int = 1,
    exact: bool = False,
    codec: Callable[[str], AugmentFn | None] | None = None,
    piece: int = 0,
    num_pieces: int = 1,
    executor: Executor | None = None,
) -> CutSet:
    """Compute the features of a split's cuts and write them, and then its cuts, into a folder.

    The cuts' manifest is removed first and written last, so it never names features that are not there. A file of
    features that a run has finished is taken over by the next one, until the manifest is written. A record of the audio
    files (see `data.replaced`) tells later whether they are still the same.

    Args:
      cuts: one-channel cuts at any sampling rate; their audio can be opened from the working folder.
      split: names the files.
      directory: a relative path, taken into the manifest as it is.
      exact: store features to 1e-5, near to what float32 itself holds of them; otherwise to 1/64, in 0.4 of the space.
      codec: what samples of a cut of this name go through before their features are computed; None: nothing. Its
        `repr` and the name say all about it.
      piece: number of the piece that is computed, from 0; of one piece of several, no manifest is written.
      executor: computes instead of `num_jobs` processes, for example a cluster whose machines share the working folder.

    Returns:
      the cuts with features, resampled to the config's rate.

    Raises:
      ValueError: audio that cannot be read, named.
      OSError: the disk is full or fails; what was written whole is taken over by the next run.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if num_pieces == 1:
        cuts_path(directory, split).unlink(missing_ok=True)
    cuts = iter(cuts)
    files = enumerate(iter(lambda: list(itertools.islice(cuts, CUTS_PER_FILE)), []))
    groups = [
        (directory / f"feats_{split}-{number}.lca", [cut.resample(config.sampling_rate) for cut in part])
        for number, part in files
        if number % num_pieces == piece
    ]
    audio = known_sources(_files_of(groups)) if num_pieces == 1 else []
    folder = Path() if executor is None else Path.cwd()
    tick_power = FINE_TICK if exact else COARSE_TICK
    store = functools.partial(_store_group, config=config, tick_power=tick_power, codec=codec, folder=folder)
    done: list[MonoCut] = []
    total = sum(len(part) for _, part in groups)
    with processes(num_jobs, executor) as workers, tqdm(total=total, desc=f"features of {split}", unit="cut") as bar:
        for part in in_order(store, groups, workers):
            done += part
            bar.update(len(part))
    result = CutSet.from_cuts(done)
    if num_pieces == 1:
        validate(result)
        write_record(audio, record_path(directory, split))
        write_manifest(result, cuts_path(directory, split))
        _remove_others(directory, split, {path.name for path, _ in groups})
    return result


def _files_of(groups: Iterable[tuple[Path, list[MonoCut]]]) -> Iterator[str]:
    """The audio files of groups of cuts."""
    sources = (source for _, cuts in groups for cut in cuts for source in cut.recording.sources)
    return (source.source for source in sources if source.type == "file")


def _remove_others(directory: Path, split: str, names: set[str]) -> None:
    """Remove a split's files of earlier runs, and what says that its present ones are finished."""
    for path in list(directory.iterdir()):
        features = re.fullmatch(rf"feats_{re.escape(split)}-\d+\.lca", path.name)  # not of dev-other, if this is dev
        if (features and path.name not in names) or re.fullmatch(rf"\.feats_{re.escape(split)}-\d+\..*", path.name):
            path.unlink()


def _store_group(
    group: tuple[Path, list[MonoCut]],
    *,
    config: FeatureConfig,
    tick_power: int,
    codec: Callable[[str], AugmentFn | None] | None,
    folder: Path,
) -> list[MonoCut]:
    """Write the features of some cuts into one file, unless it is there; the cuts with them.

    This takes one thread. Several threads would round differently, and features, and then the model that is trained on
    them, would depend on the number of cores.
    """
    os.chdir(folder)
    path, cuts = group
    codecs = [codec(cut.id) if codec else None for cut in cuts]
    finished = path.with_name(f".{path.stem}.{_digest(cuts, codecs, config, tick_power)}.jsonl.gz")
    if finished.is_file() and path.is_file():
        return list(CutSet.from_file(finished))
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        done = _written(cuts, codecs, path, config, tick_power)
        write_manifest(CutSet.from_cuts(done), finished)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        torch.set_num_threads(num_threads)
    return done


def _written(
    cuts: list[MonoCut], codecs: list[AugmentFn | None], path: Path, config: FeatureConfig, tick_power: int
) -> list[MonoCut]:
    path.unlink(missing_ok=True)
    extractor, done = feature_extractor(config), []
    with named(path), LilcomChunkyWriter(path, tick_power=tick_power) as writer:
        for cut, codec in zip(cuts, codecs):
            try:
                done.append(cut.compute_and_store_features(extractor, storage=writer, augment_fn=codec))
            except Exception as error:  # every audio backend has its own; the user needs the file's name
                if is_full(error):
                    raise
                sources = ", ".join(str(source.source) for source in cut.recording.sources)
                raise ValueError(f"no features of cut {cut.id} from {sources}: {first_line(error)}") from error
    return done


def _digest(cuts: Iterable[MonoCut], codecs: Iterable[AugmentFn | None], config: FeatureConfig, tick_power: int) -> str:
    """A digest of all that features are computed from: cuts, the size and time of their files, and options."""
    digest = hashlib.sha256(repr((config, tick_power)).encode())
    if any(used := list(codecs)):
        digest.update(repr(used).encode())
    for cut in cuts:
        files = [Path(source.source) for source in cut.recording.sources if source.type == "file"]
        stats = [(stat.st_size, stat.st_mtime_ns) for file in files if file.exists() for stat in [file.stat()]]
        digest.update(repr((cut.to_dict(), stats)).encode())
    return digest.hexdigest()[:16]
