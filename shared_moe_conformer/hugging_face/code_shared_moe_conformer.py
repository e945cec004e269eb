"""The classes of a model's folder for Hugging Face transformers, which are those of the package."""

try:
    from shared_moe_conformer.hugging_face import (  # noqa: F401
        SharedMoeConformerConfig,
        SharedMoeConformerFeatureExtractor,
        SharedMoeConformerForCTC,
        SharedMoeConformerModel,
        SharedMoeConformerProcessor,
        SharedMoeConformerTokenizer,
    )
except ImportError as error:
    raise ImportError(
        f"this model needs the package shared_moe_conformer ({error}): in its repository, run pip install . lhotse"
    ) from error
