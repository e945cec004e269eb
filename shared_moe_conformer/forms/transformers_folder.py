"""A released model as a folder of Hugging Face transformers: encoder, CTC head, features and units.

The folder's code is one file that imports `shared_moe_conformer.hugging_face`, so the package must also be installed
there. Nothing here needs transformers.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, Config, require, to_dict
from shared_moe_conformer.data.tokenizer import BLANK, MODEL_FILE, UNK
from shared_moe_conformer.decoding.options import DecodingConfig, DecodingMethod
from shared_moe_conformer.release.card import (
    CODE,
    FEATURE_CLASSES,
    MODEL_CLASSES,
    MODEL_TYPE,
    TOKENIZER_CLASSES,
    class_name,
    error_rate_table,
    form_card,
)
from shared_moe_conformer.release.manifest import (
    CARD_FILE,
    CONFIG_FILE,
    TEST_WAV,
    WEIGHTS_FILE,
    Manifest,
    is_by,
    reference_text,
    write_test_text,
)
from shared_moe_conformer.release.weights import contiguous
from shared_moe_conformer.release.zoo_index import write_sums

CODE_FILE = Path(__file__).parents[1] / "hugging_face" / f"{CODE}.py"
SEARCH: DecodingMethod = "ctc_greedy_search"
CHUNK_SECONDS = 20.0
"""Chunk of a long recording in the example, in seconds, if the training's lengths are not known."""

BODY = """
# {name}

A speech recogniser (language: {language}) trained on *{corpus}*: the encoder and the CTC head of a model of
shared-moe-conformer, for Hugging Face transformers. Weights and layers are used by that package's code, which must be
installed (`pip install . lhotse` in its repository); this folder's own code only names its classes.

```python
import soundfile
from transformers import pipeline

recogniser = pipeline("automatic-speech-recognition", model="{name}", trust_remote_code=True)
samples, sampling_rate = soundfile.read("{name}/test.wav", dtype="float32")
recording = {{"raw": samples, "sampling_rate": sampling_rate}}
print(recogniser(dict(recording))["text"])

# a long recording, with the times of its words
print(recogniser(dict(recording), chunk_length_s={seconds:g}, return_timestamps="word"))
```

`{name}` stands for the path of this folder, or for its repository. Audio has {sampling_rate} Hz.

## Word error rates

{error_rates}

Licence: {licence}, that of the corpus.
"""


def write_transformers(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write config.json, model.safetensors, the code, and what feature extractor, tokenizer and processor read.

    Arguments, result and errors: see `forms.catalogue.Form`. An untrained CTC head is refused.
    """
    bundle = Bundle.load(source)
    manifest, config = bundle.manifest, bundle.config
    require(
        config.training.ctc_loss_scale > 0,
        f"{manifest.name} was trained without CTC (ctc_loss_scale 0), and transformers recognises only by CTC",
    )
    with atomic_folder(target, marker=CODE_FILE.name, overwrite=overwrite) as folder:
        for name, values in settings(config).items():
            (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        (folder / WEIGHTS_FILE).write_bytes(safetensors.torch.save(_weights(bundle), {"format": "pt"}))
        for path in (CODE_FILE, source / MODEL_FILE, source / TEST_WAV):
            shutil.copyfile(path, folder / path.name)
        expected = bundle.transcribe(source / TEST_WAV, decoding=DecodingConfig(decoding_method=SEARCH)).text
        write_test_text(folder, expected=expected, reference=reference_text(source))
        (folder / CARD_FILE).write_text(_card(manifest, config), encoding="utf-8")
        write_sums(folder)
    return {}


def settings(config: Config) -> dict[str, dict[str, Any]]:
    """The contents of the JSON files, by name.

    Source of the names: `save_pretrained` of each class of transformers.
    """
    model, features, training = config.model, config.features, config.training
    processor = class_name("Processor")
    return {
        CONFIG_FILE: {
            "architectures": [class_name("ForCTC")],
            "model_type": MODEL_TYPE,
            "auto_map": MODEL_CLASSES,
            "dtype": "float32",
            "encoder": to_dict(model.encoder),
            "vocab_size": model.vocab_size,
            "num_mel_bins": features.num_mel_bins,
            "sampling_rate": features.sampling_rate,
            "inputs_to_logits_ratio": round(ENCODER_FRAME_SHIFT * features.sampling_rate),
            "load_balancing_loss_scale": training.load_balancing_loss_scale,
            "router_z_loss_scale": training.router_z_loss_scale,
            "pad_token_id": 0,
        },
        "preprocessor_config.json": {
            "feature_extractor_type": class_name("FeatureExtractor"),
            "processor_class": processor,
            "auto_map": FEATURE_CLASSES,
            "feature_size": features.num_mel_bins,
            "sampling_rate": features.sampling_rate,
            "padding_value": 0.0,
        },
        "tokenizer_config.json": {
            "tokenizer_class": class_name("Tokenizer"),
            "processor_class": processor,
            "auto_map": TOKENIZER_CLASSES,
            "pad_token": BLANK,
            "unk_token": UNK,
        },
    }


def _weights(bundle: Bundle) -> dict[str, Any]:
    """The tensors of encoder and CTC head, by their names in transformers."""
    places = {"encoder": "conformer.encoder", "ctc_head": "ctc_head"}
    weights = ((name.split(".", 1), value) for name, value in contiguous(bundle.model).items())
    return {f"{places[part]}.{rest}": value for (part, rest), value in weights if part in places}


def _card(manifest: Manifest, config: Config) -> str:
    """The text of README.md."""
    by_ctc = {
        test_set: found
        for test_set, rates in manifest.error_rates.items()
        if (found := {settings: rate for settings, rate in rates.items() if is_by(settings, SEARCH)})
    }
    manifest = replace(manifest, error_rates=by_ctc)
    return form_card(
        manifest,
        config,
        BODY,
        name=manifest.name,
        library="transformers",
        seconds=manifest.segment_seconds or CHUNK_SECONDS,
        error_rates=error_rate_table(manifest) if by_ctc else "None were measured by CTC.",
    )
