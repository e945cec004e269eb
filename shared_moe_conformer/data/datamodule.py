"""A recipe's prepared splits as loaders of batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lhotse import CutSet, MonoCut

from shared_moe_conformer.config import Config, require
from shared_moe_conformer.data.augment import NoiseMixer, with_more_time_masks
from shared_moe_conformer.data.batch import CutDataset
from shared_moe_conformer.data.checks import Problem, check_cut
from shared_moe_conformer.data.conditions import Conditions
from shared_moe_conformer.data.distorted import DistortedDataset
from shared_moe_conformer.data.distortions import Distortion
from shared_moe_conformer.data.loaders import WHOLE, EvalLoader, Part, TrainLoader
from shared_moe_conformer.data.manifests import cuts_path, iterate_cut_file
from shared_moe_conformer.data.stored_cuts import StoredCuts
from shared_moe_conformer.data.tokenizer import Tokenizer

MAX_SHOWN = 3
MAX_LEFT_OUT_SHARE = 0.1
"""Of the training split; where more cannot be trained on, something is wrong with all of it."""


class AsrDataModule:
    """The cuts and loaders of one recipe under one config."""

    def __init__(self, config: Config, recipe_dir: Path, tokenizer: Tokenizer, *, part: Part = WHOLE) -> None:
        """Nothing is read yet.

        Args:
          config: the experiment.
          recipe_dir: what the config's paths are relative to.
          tokenizer: makes tokens of texts.
          part: which batches this process gets of those for training and validation.
        """
        self.config = config
        self.recipe_dir = recipe_dir
        self.tokenizer = tokenizer
        self.part = part
        self.left_out: list[Problem] = []
        self.dataset = CutDataset(tokenizer, config.data)

    def train_loader(self, cuts: StoredCuts | None = None) -> TrainLoader:
        """The training split, read again unless it is given; `set_epoch` before each epoch."""
        cuts = self.training_cuts() if cuts is None else cuts
        training = self.config.training
        num_copies, options = 1, self.config.data
        if training.cr_loss_scale:
            num_copies, options = 2, with_more_time_masks(options, training.cr_time_mask_ratio)
        conditions = Conditions.of(options, self.config.features, cuts)
        dataset = CutDataset(self.tokenizer, options, self._noise(), conditions, num_copies)
        return TrainLoader(
            cuts, dataset, seed=training.seed, part=self.part, accumulate_batches=training.accumulate_batches
        )

    def dev_loader(self) -> EvalLoader:
        """The split to validate on."""
        return EvalLoader(self.cuts(self.config.data.dev_split), self.dataset, part=self.part)

    def test_loaders(self) -> dict[str, EvalLoader]:
        """Each test split by its name."""
        return {split: EvalLoader(self.cuts(split), self.dataset) for split in self.config.data.test_splits}

    def distorted_loaders(self, distortions: Sequence[Distortion]) -> dict[str, EvalLoader]:
        """Each test split by its name and each distortion's, as `test-white=10`.

        Raises:
          ValueError: a cut without a recording, or a split too small for babble.
        """
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
        path, self.left_out = self._path(self.config.data.train_split), []
        cuts = self._usable(path, self.left_out)
        good = StoredCuts(cuts, directory=path.parent if os.access(path.parent, os.W_OK) else None)
        num_faulty = len({problem.cut_id for problem in self.left_out})
        _refuse(self.left_out if num_faulty > MAX_LEFT_OUT_SHARE * (len(good) + num_faulty) else [], path)
        return good

    def cuts(self, split: str) -> CutSet:
        """A split's cuts, checked, with absolute or working-folder paths of audio and features.

        Raises:
          FileNotFoundError: the split has not been prepared.
          ValueError: cuts that cannot be trained on or scored, named.
        """
        path, problems = self._path(split), list[Problem]()
        cuts = CutSet.from_cuts(self._usable(path, problems))
        _refuse(problems, path)
        return cuts

    def _path(self, split: str) -> Path:
        return cuts_path(self.recipe_dir / self.config.data.manifest_dir, split)

    def _usable(self, path: Path, problems: list[Problem]) -> Iterator[MonoCut]:
        """A file's cuts without problems; the others' go into `problems`."""
        bins, rate = self.config.features.num_mel_bins, self.config.features.sampling_rate
        for cut in iterate_cut_file(path, recipe_dir=self.recipe_dir):
            found = check_cut(cut, self.tokenizer, min_duration=0.0, max_duration=float("inf"))
            if cut.has_features and cut.num_features != bins:
                found.append(Problem(cut.id, "features", f"{cut.num_features} mel bins, the config says {bins}"))
            if cut.has_features and cut.features.sampling_rate != rate:
                message = f"computed at {cut.features.sampling_rate} Hz, the config says {rate}: prepare them again"
                found.append(Problem(cut.id, "features", message))
            problems += found
            if not found:
                yield cut

    def _noise(self) -> NoiseMixer | None:
        """What is mixed into training."""
        data, bins = self.config.data, self.config.features.num_mel_bins
        if not data.noise_manifest:
            return None
        path = self.recipe_dir / data.noise_manifest
        cuts = list(iterate_cut_file(path, recipe_dir=self.recipe_dir))
        wrong = [cut.id for cut in cuts if not cut.has_features or cut.num_features != bins]
        require(not wrong, f"{len(wrong)} noises in {path} have no features of {bins} mel bins, {wrong[:1]} first")
        return NoiseMixer(cuts, data)


def _refuse(problems: list[Problem], path: Path) -> None:
    shown = "; ".join(problems[:MAX_SHOWN])
    require(not problems, f"{len(problems)} problems in {path}: {shown}; see local/validate_cuts.py")
