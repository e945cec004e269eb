"""A released model in the layout of sherpa-onnx's pre-trained models, which its programs and apps expect.

Source of the layout: sherpa-onnx-zipformer-ru-2024-09-18 (encoder, decoder and joiner) and
sherpa-onnx-zipformer-ctc-zh-int8-2025-07-03 (model.onnx, the CTC head) among sherpa-onnx's asr-models.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.forms.onnx_folder import require_onnx, write_offline_graphs
from shared_moe_conformer.forms.runtimes import CTC, ENCODER, int8_name
from shared_moe_conformer.release.card import card_header
from shared_moe_conformer.release.manifest import CARD_FILE, TEST_WAV, TOKENIZER_FILES, reference_text

CTC_MODEL = "model.onnx"
"""The CTC head's graph, as sherpa-onnx's CTC models call it."""
SAMPLING_RATE, NUM_MEL_BINS = 16000, 80
"""Of the features where no option says otherwise."""

CARD = """# {name}

A speech recogniser (language: {language}) trained on *{corpus}*, for
[sherpa-onnx](https://github.com/k2-fsa/sherpa-onnx): a transducer (encoder, decoder, joiner) and, with the same
encoder, a CTC model (`{ctc}`). `*.int8.onnx` have the weights of feed-forwards and experts in int8.
Licence: {licence}, that of the corpus.

```bash
sherpa-onnx-offline {options}--tokens=tokens.txt \\
  --encoder=encoder.int8.onnx --decoder=decoder.onnx --joiner=joiner.onnx test_wavs/0.wav
sherpa-onnx-offline {options}--tokens=tokens.txt --zipformer-ctc-model=model.int8.onnx test_wavs/0.wav
```

`test_wavs/trans.txt` says what is spoken in the recording. The model is a conformer: `--zipformer-ctc-model` takes any
CTC model of these inputs and outputs.
"""


def write_sherpa(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write the graphs, float32 and int8, with tokens.txt, bpe.model, README.md and test_wavs.

    Args:
      source: the bundle's folder.
      target: the folder to be made; it appears whole or not at all.
      overwrite: replace such a folder.

    Returns:
      By float32 file, the largest difference of its output from the model's, on the test wav.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged, onnx or onnxruntime is not installed, or the graphs differ from the model.
    """
    require_onnx()
    bundle = Bundle.load(source)
    with atomic_folder(target, marker=ENCODER, overwrite=overwrite) as folder:
        differences = write_offline_graphs(bundle, source / TEST_WAV, folder)
        (folder / CARD_FILE).write_text(_card(bundle, target.name), encoding="utf-8")
        return lay_out(folder, source, differences)


def lay_out(folder: Path, source: Path, differences: Mapping[str, float]) -> dict[str, float]:
    """Name the CTC graphs as sherpa-onnx does, and add units and the test recording; return the files' differences."""
    for name, new in ((CTC, CTC_MODEL), (int8_name(CTC), int8_name(CTC_MODEL))):
        (folder / name).rename(folder / new)
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, folder / name)
    (folder / "test_wavs").mkdir()
    shutil.copyfile(source / TEST_WAV, folder / "test_wavs" / "0.wav")
    (folder / "test_wavs" / "trans.txt").write_text(f"0.wav {reference_text(source)}\n", encoding="utf-8")
    return {CTC_MODEL if name == CTC else name: value for name, value in differences.items()}


def feature_options(features: FeatureConfig) -> str:
    """What the command line has to say about the features, with a space behind; nothing where it need not."""
    options = {
        "sample-rate": (features.sampling_rate, SAMPLING_RATE),
        "feat-dim": (features.num_mel_bins, NUM_MEL_BINS),
    }
    return "".join(f"--{name}={value} " for name, (value, default) in options.items() if value != default)


def _card(bundle: Bundle, name: str) -> str:
    """The text of README.md."""
    manifest = bundle.manifest
    header = {**card_header(manifest, bundle.config), "library_name": "sherpa-onnx"}
    body = CARD.format(
        name=name,
        language=manifest.language,
        corpus=manifest.corpus,
        licence=manifest.licence,
        ctc=CTC_MODEL,
        options=feature_options(bundle.config.features),
    )
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n{body}"
