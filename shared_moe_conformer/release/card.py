"""README.md of a released model and of a zoo: a header that Hugging Face reads, and a page for people.

Also the names of the classes that transformers looks for in a model's folder; transformers itself is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from shared_moe_conformer.config import Config, EncoderConfig
from shared_moe_conformer.release.manifest import CARD_FILE, Manifest, ModelFacts, without_defaults
from shared_moe_conformer.release.zoo_index import ZooEntry
from shared_moe_conformer.text import markdown_table

HUB_LICENCES = (
    *("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"),
    *("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-2.0", "gpl-3.0", "mit", "unknown"),
)
"""Licences that Hugging Face knows; others are `other` with a `license_name`.

Source: https://huggingface.co/docs/hub/repositories-licenses
"""
TASK = "automatic-speech-recognition"
COMMON_HEADER: dict[str, Any] = {
    "library_name": "shared-moe-conformer",
    "pipeline_tag": TASK,
    "tags": [TASK, "conformer", "mixture-of-experts", "transducer", "ctc"],
}
"""The header of a model with experts; other models, and zoos, which may have both kinds, lack one tag."""
TAGS_WITHOUT_EXPERTS = [tag for tag in COMMON_HEADER["tags"] if tag != "mixture-of-experts"]
BODY = """
# {name}

A speech recogniser (language: {language}) trained on *{corpus}*: {encoder},
with a stateless transducer decoder and a CTC head. {search}{begun_with}
Source of the encoder: Bai et al. 2022, *Parameter-Efficient Conformers via Sharing Sparsely-Gated Experts for
End-to-End Speech Recognition* ([arXiv 2209.08326](https://arxiv.org/abs/2209.08326)).{merging}

## How to transcribe

```
python -m shared_moe_conformer.transcribe --model {name} {name}/test.wav
```

```python
from shared_moe_conformer.bundle import Bundle

print(Bundle.load("{name}").transcribe("{name}/test.wav").text)
```

`{name}` stands for the path of this folder. Audio of any sampling rate is resampled to {sampling_rate} Hz; channels are
averaged.

## Parameters

| unique (stored) | unrolled (shared ones counted once per layer) | active (compute one frame) |
|---|---|---|
| {unique:,} | {unrolled:,} | {active:,} |

## Word error rates

{error_rates}

## Files

`config.json` every option of the experiment, features included; `model.safetensors` weights, float32; `bpe.model` and
`tokens.txt` output units (SentencePiece); `bundle.json` versions and facts; `test.wav` a recording of the test set with
`test.txt`, its text as this model transcribes it and its reference; {graph}`SHA256SUMS` for
`sha256sum -c SHA256SUMS`. No file is a pickle.

Written by shared-moe-conformer {package_version}{commit}. Licence: {licence}, that of the corpus.{licences}
"""
OVER_WORDS = "Its own search, `1best`, finds words of its lexicon by an n-gram; others need no language model."
MERGING = """
Source of the merged sets: Bulat, Ouali and Tzimiropoulos 2026, *One block, multiple depths* ([arXiv
2610.12448](https://arxiv.org/abs/2610.12448))."""
MARK = "<!-- written by shared_moe_conformer.zoo; without this line it is left as it is -->"
ZOO_BODY = """{mark}

# Speech recognisers

Conformers whose layers share weights, some of them with sparsely-gated experts. This pulls one, checks it against its
SHA-256 sums, and from then on needs no network:

```
python -m shared_moe_conformer.transcribe --model {location}/{first} speech.wav
```

{table}
"""


ZOO_COLUMNS = (
    *("model", "trained on", "language", "licence"),
    *("parameters stored, active", "MB", "WER (test set, search)"),
)


def model_card(
    manifest: Manifest, config: Config, *, graph_files: Sequence[str] = (), lm_files: Sequence[str] = ()
) -> str:
    """The text of README.md.

    Args:
      graph_files: the files of the decoding graph that is released with the model.
      lm_files: the language models over tokens that are.
    """
    names, lms = (", ".join(f"`{name}`" for name in files) for files in (graph_files, lm_files))
    graph = f"{names} a decoding graph over words (`--decoding-method 1best --graph HLG`); " if graph_files else ""
    graph += f"{lms} language models over tokens (`--lm-type`); " if lm_files else ""
    body = BODY.format(
        name=manifest.name,
        language=manifest.language,
        corpus=manifest.corpus,
        encoder=_described(config.model.encoder),
        search=OVER_WORDS if manifest.decoding_method == "1best" else "It needs no language model.",
        merging=MERGING if config.model.encoder.merged_sets > 1 else "",
        sampling_rate=config.features.sampling_rate,
        unique=manifest.unique_parameters,
        unrolled=manifest.unrolled_parameters,
        active=manifest.active_parameters,
        error_rates=error_rate_table(manifest),
        package_version=manifest.package_version,
        commit=f" (commit {manifest.commit})" if manifest.commit else "",
        licence=manifest.licence,
        graph=graph,
        **_told_origins(manifest.begun_with),
    )
    return with_header(card_header(manifest, config), body)


def with_header(header: dict[str, Any], body: str) -> str:
    """The text of a card, its header in YAML between two lines."""
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n{body}"


def form_card(manifest: Manifest, config: Config, body: str, *, name: str, library: str, **facts: object) -> str:
    """The text of README.md of a model in another toolkit's form.

    Args:
      body: the page, with facts in braces.
      name: the form's own.
      library: that which runs it, as Hugging Face calls it.
      facts: those that only this form's page has.
    """
    common = {fact: getattr(manifest, fact) for fact in ("language", "corpus", "licence")}
    body = body.format(name=name, sampling_rate=config.features.sampling_rate, **common, **facts)
    return with_header({**card_header(manifest, config), "library_name": library}, body)


def card_header(manifest: Manifest, config: Config) -> dict[str, Any]:
    """The header's values.

    Source: https://huggingface.co/docs/hub/model-cards and its model-index of evaluation results.
    """
    licence = hub_licence(manifest.licence)
    header: dict[str, Any] = {"language": manifest.language.split(","), "license": licence}
    if licence == "other":
        header["license_name"] = manifest.licence
    header |= {**COMMON_HEADER, "datasets": [manifest.corpus]}
    if config.model.encoder.experts_in == "none":
        header["tags"] = TAGS_WITHOUT_EXPERTS
    if manifest.error_rates:
        header |= {"metrics": ["wer"], "model-index": [{"name": manifest.name, "results": results_of(manifest)}]}
    return header


def hub_licence(licence: str) -> str:
    """Hugging Face's name for an SPDX identifier."""
    name = licence.lower().removesuffix("-only").removesuffix("-or-later")
    return name if name in HUB_LICENCES else "other"


def results_of(model: ModelFacts) -> list[dict[str, Any]]:
    """A model's word error rates in the form of the header's model-index."""
    return [
        {
            "task": {"type": TASK, "name": "Automatic Speech Recognition"},
            "dataset": {"type": model.corpus, "name": model.corpus, "split": test_set},
            "metrics": [
                {"type": "wer", "name": f"WER ({method})", "value": rate}
                for method, rate in without_defaults(rates).items()
            ],
        }
        for test_set, rates in model.error_rates.items()
    ]


def zoo_card(entries: Sequence[ZooEntry], *, location: str) -> str:
    """The text of README.md.

    Args:
      entries: one or more models.
      location: the zoo's address, hf://owner/name.
    """
    table = markdown_table(ZOO_COLUMNS, map(_zoo_row, entries))
    body = ZOO_BODY.format(mark=MARK, location=location, first=entries[0].name, table=table)
    return with_header(zoo_header(entries), body)


def zoo_header(entries: Sequence[ZooEntry]) -> dict[str, Any]:
    """The header's values; see `card_header`."""
    licences = {hub_licence(entry.licence) for entry in entries}
    (licence,) = licences if len(licences) == 1 else ("other",)
    header: dict[str, Any] = {
        "language": sorted({code for entry in entries for code in entry.language.split(",")}),
        "license": licence,
    }
    if licence == "other":
        header["license_name"] = "of each model its own"
    header |= {**COMMON_HEADER, "tags": TAGS_WITHOUT_EXPERTS, "datasets": sorted({entry.corpus for entry in entries})}
    measured = [{"name": entry.name, "results": results_of(entry)} for entry in entries if entry.error_rates]
    return header | ({"metrics": ["wer"], "model-index": measured} if measured else {})


def _described(encoder: EncoderConfig) -> str:
    blocks, layers = len(encoder.block_sizes), encoder.num_layers
    text = f"a conformer of {layers} layers"
    if blocks < layers:
        text += f" that use the weights of {blocks} block{'s' * (blocks > 1)}"
    if encoder.merged_sets > 1:
        text += f", stored {encoder.merged_sets} times and merged by gates of each layer"
    if encoder.experts_in != "none":
        text += f" and have {encoder.num_experts} experts each, {encoder.top_k} for each frame"
    return text


def _told_origins(begun_with: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Sentences about the models that the first weights come from, and about their licences."""
    if not begun_with:
        return {"begun_with": "", "licences": ""}
    models = [f"*{name}* ({model.get('corpus', 'corpus unknown')})" for name, model in begun_with.items()]
    licences = [f"{model.get('licence', 'unknown')} ({name})" for name, model in begun_with.items()]
    return {
        "begun_with": f"\nIts training began with the weights of {', which began with '.join(models)}.",
        "licences": f" Those of the models that it began with: {', '.join(licences)}.",
    }


def error_rate_table(manifest: Manifest) -> str:
    """A model's word error rates in Markdown."""
    if not manifest.error_rates:
        return "None were measured."
    rows = [
        (test_set, method, f"{rate:.2f} %")
        for test_set, rates in manifest.error_rates.items()
        for method, rate in without_defaults(rates).items()
    ]
    return markdown_table(("test set", "search and options other than defaults", "WER"), rows)


def _zoo_row(entry: ZooEntry) -> tuple[str, ...]:
    rate = entry.shown_rate or "not measured"
    counts = f"{entry.unique_parameters / 1e6:.2f} M, {entry.active_parameters / 1e6:.2f} M"
    name = f"[{entry.name}]({entry.path}/{CARD_FILE})"
    return name, entry.corpus, entry.language, entry.licence, counts, f"{entry.size / 1e6:.1f}", rate


MODEL_TYPE = "shared_moe_conformer"
CODE = f"code_{MODEL_TYPE}"
"""Module of the folder that names the classes."""


def class_name(part: str) -> str:
    """`SharedMoeConformerForCTC` of `ForCTC`."""
    return f"SharedMoeConformer{part}"


def _place(part: str) -> str:
    return f"{CODE}.{class_name(part)}"


MODEL_CLASSES = {"AutoConfig": _place("Config"), "AutoModel": _place("Model"), "AutoModelForCTC": _place("ForCTC")}
"""`auto_map` of config.json: each of transformers' auto classes, and the class in the folder's code that it loads."""
_PROCESSOR = {"AutoProcessor": _place("Processor")}
FEATURE_CLASSES = {"AutoFeatureExtractor": _place("FeatureExtractor"), **_PROCESSOR}
"""The same of preprocessor_config.json."""
TOKENIZER_CLASSES: dict[str, Any] = {"AutoTokenizer": [_place("Tokenizer"), None], **_PROCESSOR}
"""The same of tokenizer_config.json; None: there is no fast tokenizer."""
