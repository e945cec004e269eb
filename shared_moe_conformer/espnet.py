"""The encoder in ESPnet2: once this is imported, a config may say `encoder: shared_moe_conformer`.

`python -m shared_moe_conformer.espnet -m espnet2.bin.asr_train ...` imports it before ESPnet's own program runs.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from typing import Any

from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.tasks.asr import encoder_choices
from torch import Tensor

from shared_moe_conformer.config import MIN_NUM_FRAMES, to_dict
from shared_moe_conformer.standalone import DEFAULTS, whole_utterance_parts

NAME = "shared_moe_conformer"
USAGE = "usage: python -m shared_moe_conformer.espnet -m espnet2.bin.asr_train [argument ...]"


class Encoder(AbsEncoder):
    """Features to encoder frames; `encoder_conf` holds the fields of `EncoderConfig`."""

    def __init__(self, input_size: int, **options: Any) -> None:
        """Take the mel bins of the frontend, and the options of `standalone.whole_utterance_parts`."""
        super().__init__()
        because = "ESPnet's asr task recognises whole utterances"
        self.front_end, self.layers = whole_utterance_parts(options, num_mel_bins=input_size, because=because)

    def output_size(self) -> int:
        """Channels of an encoder frame."""
        return self.layers.encoder_dim

    def forward(
        self, xs_pad: Tensor, ilens: Tensor, prev_states: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return encoder frames (N, T', C), the valid ones of each utterance (N,), and None.

        Args:
          xs_pad: features, (N, T, F).
          ilens: valid frames of each utterance, (N,).
          prev_states: unused.

        Raises:
          TooShortUttError: an utterance has no encoder frame.
        """
        shortest = int(ilens.min())
        if shortest < MIN_NUM_FRAMES:
            message = f"an utterance has {shortest} frames: give {MIN_NUM_FRAMES} or more"
            raise TooShortUttError(message, shortest, MIN_NUM_FRAMES)
        frames, lens = self.layers(*self.front_end(xs_pad, ilens))
        return frames, lens, None


def _signature() -> inspect.Signature:
    """The options with their defaults, from which ESPnet makes a complete config."""
    kind, values = inspect.Parameter.KEYWORD_ONLY, to_dict(DEFAULTS)
    options = [inspect.Parameter(f.name, kind, default=values[f.name]) for f in dataclasses.fields(DEFAULTS)]
    return inspect.Signature([inspect.Parameter("input_size", inspect.Parameter.POSITIONAL_OR_KEYWORD), *options])


Encoder.__signature__ = _signature()  # type: ignore[attr-defined]
encoder_choices.classes[NAME] = Encoder


def main() -> None:
    """Call `main` of a module of ESPnet, which then knows the encoder, as do the processes that it starts."""
    if len(sys.argv) < 3 or sys.argv[1] != "-m":
        sys.exit(USAGE)
    module = sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
