"""A recipe's prepared splits as loaders of batches."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lhotse import CutSet, MonoCut

from shared_moe_conformer.config import Config, require
from shared_moe_conformer.data.augment import Conditions, with_more_time_masks
from shared_moe_conformer.data.batch import CutDataset, CutTransforms, DistortedDataset, NothingReadable, PlannedBatch
from shared_moe_conformer.data.checks import Problem, check_utterance, refuse, refuse_many
from shared_moe_conformer.data.distortions import Distortion
from shared_moe_conformer.data.loaders import WHOLE, EvalLoader, Part, TrainLoader
from shared_moe_conformer.data.manifests import StoredCuts, cuts_path, iterate_cut_file
from shared_moe_conformer.data.replaced import content_digest, record_path, replaced_files, told
from shared_moe_conformer.data.shar import Shards, Unreadable
from shared_moe_conformer.data.sources import SAMPLE, Source, Survey, open_sources, survey
from shared_moe_conformer.data.streamed import EndlessStream, EpochStream, Mixture
from shared_moe_conformer.data.tokenizer import Tokenizer

MAX_LOOKED_AT = 10_000
"""Audio files of a split that are looked at, whether they are still the same, when it is read."""

logger = logging.getLogger("shared_moe_conformer")


class AsrDataModule:
    """The cuts and loaders of one recipe under one config."""

    def __init__(self, config: Config, recipe_dir: Path, tokenizer: Tokenizer, *, part: Part = WHOLE) -> None:
        """Nothing is read yet; of the batches for training and validation this process gets a part."""
        self.config = config
        self.recipe_dir = recipe_dir
        self.tokenizer = tokenizer
        self.part = part
        self.left_out: list[Problem] = []
        self._noted: set[str] = set()
        self.dataset = CutDataset(tokenizer, config.data, config.features)
        self._check = functools.partial(check_utterance, tokenizer=tokenizer, config=config.features)

    def train_loader(self, cuts: StoredCuts | None = None) -> TrainLoader:
        """The training split, read again unless it is given; `set_epoch` before each epoch."""
        cuts = self.training_cuts() if cuts is None else cuts
        training, dataset = self.config.training, self._training_dataset(lambda: cuts)
        return TrainLoader(
            cuts, dataset, seed=training.seed, part=self.part, accumulate_batches=training.accumulate_batches
        )

    def survey(self) -> Survey:
        """The utterances in the manifests of `train_cuts`, or of the split; of sources without end the first of each.

        Raises:
          FileNotFoundError, ValueError: a source is missing or faulty, or its weight would mean nothing.
        """
        return survey(self._sources, self._check, limit=SAMPLE if self.config.training.epoch_steps else None)

    def stream_loader(self, survey: Survey) -> EpochStream | EndlessStream:
        """The batches of `train_cuts`, or of the training split without end.

        Raises:
          ValueError: the first cut of a source cannot be read, or the config changes audio and all have features.
        """
        training, sources = self.config.training, self._sources
        length = training.epoch_steps * training.accumulate_batches
        weights = [source.weight or 1.0 for source in sources] if length else list(map(len, survey.durations))
        unreadable = Unreadable(self.config.data.max_unreadable)
        mixture = Mixture(sources, weights, self._check, endless=length > 0, unreadable=unreadable)
        dataset = self._training_dataset(lambda: mixture.sample, unreadable)
        first_cuts = mixture.first_cuts()
        require(
            not (self.config.data.on_the_fly and all(cut.has_features for cut in first_cuts)),
            "speed_factors, room_manifest and codec_probability are for audio, and train_cuts have stored features:"
            " give cuts without features, e.g. data/manifests/cuts_train.jsonl.gz",
        )
        with suppress(NothingReadable):  # as many as may be left out
            dataset[PlannedBatch(first_cuts, 0)]
        self.left_out = survey.left_out
        loader = EndlessStream if length else EpochStream
        options, num_processes = self.config.data, self.part.num_processes
        num_parts = num_processes * max(options.num_workers, 1)
        estimate = survey.num_batches(options.num_buckets, options.max_duration, num_parts=num_parts)
        length = length or math.ceil(estimate / num_processes)
        return loader(mixture, dataset, survey, seed=training.seed, part=self.part, length=length)

    def described(self, cuts: StoredCuts | Survey) -> list[str]:
        """The data that a training reads, in lines."""
        data, steps = self.config.data, self.config.training.epoch_steps
        if not isinstance(cuts, Survey):
            amount = f"{len(cuts):,} cuts, {float(cuts.durations.sum()) / 3600:,.2f} hours"
            return [f"reads {data.manifest_dir}, {data.train_split}: {amount}; {len(self.left_out)} are left out"]
        lines = []
        for source, durations in zip(self._sources, cuts.durations):
            kind = f"{len(source):,} shards" if isinstance(source, Shards) else "a manifest"
            amount = f"{len(durations):,} cuts, {sum(durations) / 3600:,.2f} hours"
            weight = f", weight {source.weight or 1:g}; of the first" if steps else ";"
            lines.append(f"reads {source.name}, {kind}{weight} {amount} are good")
        return [*lines, f"{len(self.left_out)} cuts are left out"]

    @functools.cached_property
    def _sources(self) -> list[Source]:
        sources = open_sources(self._source_names(), self.recipe_dir)
        for source in sources:
            require(
                source.weight is None or self.config.training.epoch_steps > 0,
                f"train_cuts {source.name} has a weight: give --num-steps too, since an epoch has each cut once",
            )
            if isinstance(source, Shards):
                shards, processes = len(source), self.part.num_processes
                too_few = f"{source.name} has {shards} shards for {processes} processes: make smaller shards"
                require(shards >= processes, too_few)
        return sources

    def _source_names(self) -> tuple[str, ...]:
        """`train_cuts`; without them the training split, for a training by steps."""
        data = self.config.data
        if data.train_cuts:
            return data.train_cuts
        if not (path := self._path(data.train_split)).is_file():
            raise FileNotFoundError(f"no cuts in {path}: run ./prepare.sh first")
        return (str(cuts_path(Path(data.manifest_dir), data.train_split)),)

    def _training_dataset(self, cuts: Callable[[], StoredCuts], unreadable: Unreadable | None = None) -> CutDataset:
        """The dataset that loads training utterances and augments them; `cuts` gives some of them, for babble."""
        training, features, options, num_copies = self.config.training, self.config.features, self.config.data, 1
        if training.cr_loss_scale:
            num_copies, options = 2, with_more_time_masks(options, training.cr_time_mask_ratio)
        return CutDataset(
            self.tokenizer,
            options,
            features,
            CutTransforms.of(options, features, self.recipe_dir),
            Conditions.of(options, features, cuts),
            num_copies,
            unreadable or Unreadable(),
            keep_clean=bool(training.teacher) and training.clean_teacher,
        )

    def dev_loader(self) -> EvalLoader:
        """The split to validate on."""
        return EvalLoader(self.cuts(self.config.data.dev_split), self.dataset, part=self.part)

    def test_loaders(self) -> dict[str, EvalLoader]:
        """Each test split by its name."""
        return {split: EvalLoader(self.cuts(split), self.dataset) for split in self.config.data.test_splits}

    def distorted_loaders(self, distortions: Sequence[Distortion]) -> dict[str, EvalLoader]:
        """Each test split by its name and each distortion's, as `test-white=10`."""
        loaders = {}
        for split in self.config.data.test_splits if distortions else ():
            cuts = self.cuts(split)
            for distortion in distortions:
                dataset = DistortedDataset(self.config, self.tokenizer, list(cuts), distortion)
                loaders[f"{split}-{distortion.name}"] = EvalLoader(cuts, dataset)
        return loaders

    def training_cuts(self) -> StoredCuts:
        """The cuts of the training split without those that cannot be trained on, which go into `left_out`.

        Raises:
          FileNotFoundError: the split has not been prepared.
          ValueError: more than a tenth of it cannot be trained on, some named.
        """
        split, self.left_out = self.config.data.train_split, []
        path = self._path(split)
        cuts = self._usable(path, self.left_out)
        good = StoredCuts(cuts, directory=path.parent if os.access(path.parent, os.W_OK) else None)
        refuse_many(self.left_out, len(good), path)
        self._note_replaced(split)
        return good

    def cuts(self, split: str) -> CutSet:
        """A split's cuts, checked, with absolute or working-folder paths of audio and features.

        Raises:
          FileNotFoundError: the split has not been prepared.
          ValueError: cuts that cannot be trained on or scored, named.
        """
        path, problems = self._path(split), list[Problem]()
        cuts = CutSet.from_cuts(self._usable(path, problems))
        refuse(problems, path)
        self._note_replaced(split)
        return cuts

    @property
    def audio_digest(self) -> str:
        """A digest of the audio that the training split's features were computed from; empty if nobody recorded it."""
        return content_digest(self._record(self.config.data.train_split))

    def _note_replaced(self, split: str) -> None:
        """Warn if audio files were replaced after a split's features were computed."""
        if self.part.rank or split in self._noted:
            return
        self._noted.add(split)
        if names := replaced_files(self._record(split), recipe_dir=self.recipe_dir, most=MAX_LOOKED_AT):
            logger.warning("%s: %s: run ./prepare.sh, which computes them again", self._path(split), told(names))

    def _record(self, split: str) -> Path:
        return record_path(self.recipe_dir / self.config.data.manifest_dir, split)

    def _path(self, split: str) -> Path:
        return cuts_path(self.recipe_dir / self.config.data.manifest_dir, split)

    def _usable(self, path: Path, problems: list[Problem]) -> Iterator[MonoCut]:
        """A file's cuts without problems; the others' go into `problems`."""
        for cut in iterate_cut_file(path, recipe_dir=self.recipe_dir):
            if found := self._check(cut):
                problems += found
            else:
                yield cut
