"""Names that a model's folder for Hugging Face transformers uses; transformers itself is not needed for them."""

from __future__ import annotations

from typing import Any

MODEL_TYPE = "shared_moe_conformer"
CODE = f"code_{MODEL_TYPE}"
"""Module of the folder that names the classes."""


def class_name(part: str) -> str:
    """`SharedMoeConformerForCTC` of `ForCTC`."""
    return f"SharedMoeConformer{part}"


def _place(part: str) -> str:
    return f"{CODE}.{class_name(part)}"


MODEL_CLASSES = {"AutoConfig": _place("Config"), "AutoModel": _place("Model"), "AutoModelForCTC": _place("ForCTC")}
"""`auto_map` of config.json: the class in the folder's code by the class that is asked for it."""
_PROCESSOR = {"AutoProcessor": _place("Processor")}
FEATURE_CLASSES = {"AutoFeatureExtractor": _place("FeatureExtractor"), **_PROCESSOR}
"""The same of preprocessor_config.json."""
TOKENIZER_CLASSES: dict[str, Any] = {"AutoTokenizer": [_place("Tokenizer"), None], **_PROCESSOR}
"""The same of tokenizer_config.json; None: there is no fast tokenizer."""
