"""A released model in the layout of icefall's own; icefall itself cannot run it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.release.manifest import CARD_FILE, CONFIG_FILE, TEST_TEXT, TEST_WAV, TOKENIZER_FILES


def write_icefall(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write exp/pretrained.pt (`{"model": state_dict}`), exp/config.json and data/lang_bpe_V, as icefall releases.

    Source: icefall's export.py and its released models' repositories.

    Returns:
      Nothing: no graph is made that could differ.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged.
    """
    bundle = Bundle.load(source)
    files: dict[str, Sequence[str]] = {
        "exp": (CONFIG_FILE,),
        f"data/lang_bpe_{bundle.config.model.vocab_size}": TOKENIZER_FILES,
        "test_wavs": (TEST_WAV, TEST_TEXT),
        ".": (CARD_FILE,),
    }
    with atomic_folder(target, marker="exp/pretrained.pt", overwrite=overwrite) as new:
        for folder, names in files.items():
            (new / folder).mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.copyfile(source / name, new / folder / name)
        torch.save({"model": bundle.model.state_dict()}, new / "exp" / "pretrained.pt")
    return {}
