"""Log mel filter banks: of one recording for recognition, and of a whole split, stored compressed beside its manifest.

Preparation and recognition share this one definition.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, Fbank, FbankConfig, FeatureExtractor, LilcomChunkyWriter, MonoCut, validate
from lhotse.augmentation import Resample
from lhotse.cut import Cut
from torch import Tensor, nn
from tqdm import tqdm

from shared_moe_conformer.config import FRAME_LENGTH, FeatureConfig, require
from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from shared_moe_conformer.text import first_line

CUTS_PER_FILE = 200
COARSE_TICK, FINE_TICK = -5, -20
"""Powers of two to whose multiples lilcom rounds: Lhotse's, and the finest that it can."""


@functools.lru_cache(maxsize=8)
def feature_extractor(config: FeatureConfig) -> FeatureExtractor:
    """Lhotse's extractor of Kaldi-compatible filter banks that the config asks for.

    Raises:
      ValueError: kaldifeat is asked for and not installed.
    """
    return {"lhotse": _lhotse_fbank, "kaldifeat": _kaldifeat_fbank}[config.feature_extractor](config)


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
    """Features (T, F) of a cut, stored or else computed from its recording as `store_features` does."""
    if cut.has_features:
        return torch.from_numpy(cut.load_features())
    return torch.as_tensor(cut.resample(config.sampling_rate).compute_features(feature_extractor(config)))


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


def perturb_speed(cuts: CutSet, factors: Iterable[float]) -> CutSet:
    """The cuts followed by copies at each factor of their speed (Ko et al. 2015, Audio Augmentation)."""
    return CutSet.from_cuts([*cuts, *(cut.perturb_speed(factor) for factor in factors for cut in cuts)])


def store_features(
    cuts: CutSet, split: str, *, directory: Path, config: FeatureConfig, num_jobs: int = 1, exact: bool = False
) -> CutSet:
    """Compute the features of a split's cuts and write them, and then its cuts, into a folder.

    The cuts' manifest is removed first and written last, so it never names features that are not there.

    Args:
      cuts: one-channel cuts at any sampling rate; their audio can be opened from the working folder.
      split: names the files.
      directory: a relative path, taken into the manifest as it is.
      config: the features.
      num_jobs: processes.
      exact: store features to 1e-5, near to what float32 itself holds of them; otherwise to 1/64, in 0.4 of the space.

    Returns:
      the cuts that were written, resampled to the config's rate.

    Raises:
      ValueError: audio that cannot be read, named.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cuts_path(directory, split).unlink(missing_ok=True)
    for path in list(directory.iterdir()):
        if re.fullmatch(rf"feats_{re.escape(split)}-\d+\.lca", path.name):  # not of dev-other, if this is dev
            path.unlink()
    resampled = [cut.resample(config.sampling_rate) for cut in cuts]
    parts = [resampled[i : i + CUTS_PER_FILE] for i in range(0, len(resampled), CUTS_PER_FILE)]
    paths = [directory / f"feats_{split}-{index}.lca" for index in range(len(parts))]
    store = functools.partial(_store_part, config=config, tick_power=FINE_TICK if exact else COARSE_TICK)
    done: list[MonoCut] = []
    with tqdm(total=len(resampled), desc=f"features of {split}", unit="cut") as progress:
        for cut in _map(store, parts, paths, num_jobs=num_jobs):
            done.append(cut)
            progress.update()
    result = CutSet.from_cuts(done)
    validate(result)
    write_manifest(result, cuts_path(directory, split))
    return result


def _map(
    store: Callable[..., Iterator[MonoCut]], parts: list[list[MonoCut]], paths: list[Path], *, num_jobs: int
) -> Iterator[MonoCut]:
    """The cuts with features, in order.

    Every process computes with one thread. Several threads would round differently, and features, and then the model
    that is trained on them, would depend on the number of cores.
    """
    if num_jobs > 1:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_jobs, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for done in pool.map(functools.partial(_listed, store), parts, paths):
                yield from done
        return
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for part, path in zip(parts, paths):
            yield from store(part, path)
    finally:
        torch.set_num_threads(num_threads)


def _listed(store: Callable[..., Iterator[MonoCut]], part: list[MonoCut], path: Path) -> list[MonoCut]:
    """What `store` gives, as a list, which one process can send to another."""
    return list(store(part, path))


def _store_part(cuts: list[MonoCut], path: Path, *, config: FeatureConfig, tick_power: int) -> Iterator[MonoCut]:
    """Write the features of some cuts into one file; the cuts with them."""
    extractor = feature_extractor(config)
    with LilcomChunkyWriter(path, tick_power=tick_power) as writer:
        for cut in cuts:
            try:
                yield cut.compute_and_store_features(extractor, storage=writer)
            except Exception as error:  # every audio backend has its own; the user needs the file's name
                sources = ", ".join(str(source.source) for source in cut.recording.sources)
                raise ValueError(f"no features of cut {cut.id} from {sources}: {first_line(error)}") from error
