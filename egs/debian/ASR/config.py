"""The named configs of Debian's speech: one small conformer for all languages; those ending in `-free` leave uqm out.

Training draws utterances from the corpora in the shares of `WEIGHTS`, for about 20 minutes of a CPU core.
"""

from __future__ import annotations

from shared_moe_conformer.sizes import recipe_configs

VOCAB_SIZE = 256
SAMPLING_RATE = 8000
"""Rate of the asterisk prompts, the lowest of all: bins above 4 kHz would tell corpora apart, and not sounds."""
WEIGHTS = {"asterisk": 10, "festvox": 2, "fillets": 8, "tuxpaint": 18, "uqm": 8}
"""Shares of the utterances: small corpora are heard more often than large ones."""
FREE = tuple(name for name in WEIGHTS if name != "uqm")
LICENCE = "GPL-2.0-only AND CC-BY-SA-3.0 AND CC-BY-3.0"

PARTS = {
    "": ("all", tuple(WEIGHTS), f"{LICENCE} AND CC-BY-NC-SA-2.5"),
    "-free": ("free", FREE, LICENCE),
}
"""Folder, corpora and licences, by the end of the configs' names."""

CONFIGS = {
    f"{size}{ending}": config
    for ending, (folder, corpora, licence) in PARTS.items()
    for size, config in recipe_configs(
        hours=1.0,  # sizes for as short a training; the hours of speech would choose one of a night
        corpus=f"debian-{folder}",
        language="be,bg,ca,cs,da,el,en,es,fr,it,nl,ro,ru",
        licence=licence,
        vocab_size=VOCAB_SIZE,
        lang_dir=f"data/{folder}/lang_bpe_{VOCAB_SIZE}",
        changes={
            "sampling_rate": SAMPLING_RATE,
            "manifest_dir": f"data/{folder}/fbank",
            "train_cuts": tuple(f"data/{folder}/sources/{name}.jsonl@{WEIGHTS[name]}" for name in corpora),
            "steps_per_epoch": 1800,
            "num_epochs": 5,
            "dropout": 0.05,
            "num_time_masks": 0,  # each utterance is heard a few times only, and not learned by heart
            "num_freq_masks": 0,
            "join_probability": 0.0,
            "silence_probability": 0.0,
        },
        recommended="base",  # `merged` has been trained without uqm only, begun with another model
    ).items()
}
