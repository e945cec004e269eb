"""A released model in Hugging Face transformers: the classes that a folder of the form `transformers` names.

Importing this registers them, so that such a folder then loads without `trust_remote_code`.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoProcessor, AutoTokenizer

from shared_moe_conformer.hugging_face.models import (
    SharedMoeConformerConfig,
    SharedMoeConformerForCTC,
    SharedMoeConformerModel,
)
from shared_moe_conformer.hugging_face.processing import (
    SharedMoeConformerFeatureExtractor,
    SharedMoeConformerProcessor,
    SharedMoeConformerTokenizer,
)

__all__ = [
    "SharedMoeConformerConfig",
    "SharedMoeConformerFeatureExtractor",
    "SharedMoeConformerForCTC",
    "SharedMoeConformerModel",
    "SharedMoeConformerProcessor",
    "SharedMoeConformerTokenizer",
]

AutoConfig.register(SharedMoeConformerConfig.model_type, SharedMoeConformerConfig, exist_ok=True)
AutoModel.register(SharedMoeConformerConfig, SharedMoeConformerModel, exist_ok=True)
AutoModelForCTC.register(SharedMoeConformerConfig, SharedMoeConformerForCTC, exist_ok=True)
AutoFeatureExtractor.register(SharedMoeConformerConfig, SharedMoeConformerFeatureExtractor, exist_ok=True)
AutoTokenizer.register(SharedMoeConformerConfig, slow_tokenizer_class=SharedMoeConformerTokenizer, exist_ok=True)
AutoProcessor.register(SharedMoeConformerConfig, SharedMoeConformerProcessor, exist_ok=True)
