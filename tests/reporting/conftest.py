from __future__ import annotations

import math
from pathlib import Path

import pytest

from shared_moe_conformer.config import Config, replace_fields, save_config
from shared_moe_conformer.decoding.scoring import Decoded, Scores, character_error_rate, word_error_rate, write_files
from tests.conftest import TINY

CONFIG: Config = replace_fields(TINY, {"num_epochs": 4})
NUM_LAYERS, NUM_EXPERTS = 3, 3
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def exp_dir(tmp_path: Path) -> Path:
    """A training of three epochs out of four, decoded by two methods, with what could break a page in its texts."""
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "exp" / "base"
    folder.mkdir(parents=True)
    save_config(CONFIG, folder / "config.json")
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step in range(1, 31):
            writer.add_scalar("train/loss", 10.0 / step, step)
            writer.add_scalar("train/learning_rate", 1e-3, step)
            writer.add_scalar("train/grad_norm", math.nan if step == 3 else 2.0, step)
            writer.add_scalar("speed/hours_of_audio_per_hour", 50.0 + step, step)
        for epoch, step in ((1, 10), (2, 20), (3, 30)):
            writer.add_scalar("dev/loss", 5.0 / epoch, step)
            writer.add_scalar("dev/ctc_greedy_wer", 60.0 - 10 * epoch if epoch < 3 else 45.0, step)
            for layer in range(NUM_LAYERS):
                for expert, share in enumerate((0.6, 0.395, 0.005) if layer == 1 else (0.3, 0.3, 0.4)):
                    writer.add_scalar(f"dev_expert_share/feed_forward_{layer:02d}/expert_{expert}", share, step)
    for method, hyp in (("greedy_search", "A X"), ("beam", "A B")):
        decoded = [Decoded("u1", f"A B {EVIL}", hyp), Decoded("u2", "C D", "C D E")]
        scores = Scores("test", method, method, word_error_rate(decoded), character_error_rate(decoded), 0.01)
        write_files(decoded, scores, folder / method, suffix=f"epoch-3-avg-2-{method}")
    return folder


@pytest.fixture
def log_lines(exp_dir: Path) -> None:
    """A log as train.py writes it."""
    (exp_dir / "log").mkdir()
    lines = [
        'DEBUG environment: {"torch": "9.9", "commit": "abc"}',
        "INFO beginning: 0.81 million parameters, 12 batches an epoch",
        f"WARNING step 3: loss is nan; the update is skipped (1 so far). Cuts: {EVIL}",
    ]
    text = "".join(f"2026-01-01 00:00:00,000 {line}\n" for line in lines)
    (exp_dir / "log" / "train-log-2026-01-01-00-00-00.txt").write_text(text)
