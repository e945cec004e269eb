"""Features of a whole cut set, computed in parallel and stored compressed beside its manifest."""

from __future__ import annotations

import functools
import multiprocessing
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from lhotse import CutSet, FeatureExtractor, LilcomChunkyWriter, MonoCut, validate
from tqdm import tqdm

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.features import feature_extractor
from shared_moe_conformer.data.manifests import cuts_path, write_manifest

CUTS_PER_FILE = 200
COARSE_TICK, FINE_TICK = -5, -20
"""Powers of two to whose multiples lilcom rounds: Lhotse's, and the finest that it can."""


def perturb_speed(cuts: CutSet, factors: Iterable[float]) -> CutSet:
    """The cuts followed by copies at each factor of their speed (Ko et al. 2015, Audio Augmentation)."""
    return CutSet.from_cuts([*cuts, *(cut.perturb_speed(factor) for factor in factors for cut in cuts)])


def store_features(
    cuts: CutSet, split: str, *, directory: Path, config: FeatureConfig, num_jobs: int = 1, exact: bool = False
) -> CutSet:
    """Compute the features of a split's cuts and write them, and then its cuts, into a folder.

    The cuts' manifest is removed first and written last, so it never names features that are not there.

    Args:
      cuts: one-channel cuts at any sampling rate, of which the audio can be opened from the working folder.
      directory: a relative path, taken into the manifest as it is.
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
    parts = [CutSet.from_cuts(resampled[i : i + CUTS_PER_FILE]) for i in range(0, len(resampled), CUTS_PER_FILE)]
    paths = [directory / f"feats_{split}-{index}.lca" for index in range(len(parts))]
    compute = functools.partial(_store_part, config=config, tick_power=FINE_TICK if exact else COARSE_TICK)
    with tqdm(total=len(resampled), desc=f"features of {split}", unit="cut") as progress:
        done: list[MonoCut] = []
        for part in _map(compute, parts, paths, num_jobs=num_jobs, progress=progress):
            done.extend(part)
    result = CutSet.from_cuts(done)
    validate(result)
    write_manifest(result, cuts_path(directory, split))
    return result


def _map(
    compute: Callable[..., list[MonoCut]], parts: list[CutSet], paths: list[Path], *, num_jobs: int, progress: tqdm
) -> Iterator[list[MonoCut]]:
    """Each part's cuts with features, in order; the progress bar advances by cuts.

    Every process computes with one thread: several would round differently, and features, and then the model that is
    trained on them, would depend on the number of cores.
    """
    if num_jobs <= 1:
        with _one_thread():
            yield from (compute(part, path, progress=progress) for part, path in zip(parts, paths))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done in pool.map(compute, parts, paths):
            progress.update(len(done))
            yield done


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _store_part(
    cuts: CutSet, path: Path, *, config: FeatureConfig, tick_power: int, progress: tqdm | None = None
) -> list[MonoCut]:
    """Write the features of some cuts into one file; the cuts with them."""
    extractor = feature_extractor(config)
    result = []
    with LilcomChunkyWriter(path, tick_power=tick_power) as writer:
        for cut in cuts:
            result.append(_store_cut(cut, extractor, writer))
            if progress is not None:
                progress.update()
    return result


def _store_cut(cut: MonoCut, extractor: FeatureExtractor, writer: LilcomChunkyWriter) -> MonoCut:
    try:
        return cut.compute_and_store_features(extractor, storage=writer)
    except Exception as error:  # every audio backend has its own; the user needs the file's name
        sources = ", ".join(str(source.source) for source in cut.recording.sources)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"no features of cut {cut.id} from {sources}: {reason}") from error
