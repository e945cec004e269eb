"""The features of a whole split, computed by one process or many and stored beside its manifest."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import torch
from lhotse import CutSet, LilcomChunkyWriter, MonoCut, validate
from tqdm import tqdm

from shared_moe_conformer.atomic import is_full, named
from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.distortions import Codec, codec_of
from shared_moe_conformer.data.features import feature_extractor
from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from shared_moe_conformer.data.replaced import known_sources, record_path, write_record
from shared_moe_conformer.device import in_order, processes
from shared_moe_conformer.text import first_line

CUTS_PER_FILE = 200
COARSE_TICK, FINE_TICK = -5, -20
"""Powers of two to whose multiples lilcom rounds: Lhotse's, and the finest that it can."""


def store_features(
    cuts: Iterable[MonoCut],
    split: str,
    *,
    directory: Path,
    config: FeatureConfig,
    num_jobs: int = 1,
    exact: bool = False,
    coded_share: float = 0.0,
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
      coded_share: share of the cuts whose samples go through a codec first (`distortions.codec_of`).
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
    store = functools.partial(
        _store_group, config=config, tick_power=tick_power, coded_share=coded_share, folder=folder
    )
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
    coded_share: float,
    folder: Path,
) -> list[MonoCut]:
    """Write the features of some cuts into one file, unless it is there; the cuts with them.

    This takes one thread. Several threads would round differently, and features, and then the model that is trained on
    them, would depend on the number of cores.
    """
    os.chdir(folder)
    path, cuts = group
    codecs = [codec_of(cut.id, share=coded_share) for cut in cuts]
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
    cuts: list[MonoCut], codecs: list[Codec | None], path: Path, config: FeatureConfig, tick_power: int
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


def _digest(cuts: Iterable[MonoCut], codecs: Iterable[Codec | None], config: FeatureConfig, tick_power: int) -> str:
    """A digest of all that features are computed from: cuts, the size and time of their files, and options."""
    digest = hashlib.sha256(repr((config, tick_power)).encode())
    if any(used := list(codecs)):
        digest.update(repr(used).encode())
    for cut in cuts:
        files = [Path(source.source) for source in cut.recording.sources if source.type == "file"]
        stats = [(stat.st_size, stat.st_mtime_ns) for file in files if file.exists() for stat in [file.stat()]]
        digest.update(repr((cut.to_dict(), stats)).encode())
    return digest.hexdigest()[:16]
