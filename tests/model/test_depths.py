"""One encoder that computes with several numbers of its layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shared_moe_conformer.config import Chunking
from shared_moe_conformer.model.encoder import Encoder
from tests.model.test_streaming import make_encoder, stream_all

X, X_LENS = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([60, 48, 31])
ELASTIC = {"experts_in": "none", "merged_sets": 2, "group_sizes": (6,), "depths": (2, 4, 6)}


@pytest.mark.parametrize(
    ("num_layers", "depths"), [(1, [1]), (2, [1, 6]), (3, [1, 3, 6]), (4, [1, 3, 4, 6]), (6, [1, 2, 3, 4, 5, 6])]
)
def test_layers_are_chosen_at_even_distances_and_are_those_of_the_whole(
    encoder_config: Any, num_layers: int, depths: list[int]
) -> None:
    """Against an encoder of these layers alone, whose frames after each group are known by the depth in the whole."""
    encoder = Encoder(encoder_config(**ELASTIC), num_mel_bins=20).eval()
    layers = list(encoder.layers())
    encoder.use_layers(num_layers)
    assert list(encoder.chosen_layers()) == depths
    output, ends = encoder.forward_with_ends(X, X_LENS)
    assert list(ends) == depths[-1:]
    encoder.layers = lambda: iter([layers[depth - 1] for depth in depths])  # type: ignore[method-assign]
    encoder.layer_blocks = (0,) * num_layers
    assert torch.equal(encoder(X, X_LENS).encoder_out, output.encoder_out)


def test_training_draws_a_depth_for_each_batch_and_evaluation_uses_all(encoder_config: Any) -> None:
    encoder = Encoder(encoder_config(**ELASTIC), num_mel_bins=20)
    torch.manual_seed(0)
    assert {len(encoder.chosen_layers()) for _ in range(40)} == {2, 4, 6}
    assert len(encoder.eval().chosen_layers()) == 6
    plain = Encoder(encoder_config(**{**ELASTIC, "depths": ()}), num_mel_bins=20)
    assert len(plain.chosen_layers()) == 6
    plain.load_state_dict(encoder.state_dict())
    assert torch.equal(plain.eval()(X, X_LENS).encoder_out, encoder(X, X_LENS).encoder_out)


def test_blocks_in_turn_compute_with_fewer_layers_too(encoder_config: Any) -> None:
    options = {"experts_in": "none", "group_sizes": (4,), "pattern": "ABAB", "depths": (3, 4)}
    encoder = Encoder(encoder_config(**options), num_mel_bins=20).eval()
    encoder.use_layers(3)
    _, ends = encoder.forward_with_ends(X, X_LENS)
    assert list(encoder.chosen_layers()) == [1, 3, 4] and list(ends) == [3, 4]


def test_a_stream_of_fewer_layers_is_the_whole_with_a_mask() -> None:
    encoder, chunking = make_encoder(**ELASTIC), Chunking(4, 6)
    encoder.use_layers(3)
    utterances = [X[0, :60], X[1, :31]]
    with torch.no_grad():
        whole = encoder(torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True), torch.tensor([60, 31]), chunking)
        parts = stream_all(encoder, utterances, [0, 2], chunking)
    for found, expected, length in zip(parts, whole.encoder_out, whole.encoder_out_lens):
        torch.testing.assert_close(found, expected[:length], rtol=1e-4, atol=1e-5)


def test_all_layers_come_back_and_other_numbers_are_refused(encoder_config: Any) -> None:
    encoder = Encoder(encoder_config(**ELASTIC), num_mel_bins=20).eval()
    encoder.use_layers(2)
    encoder.use_layers(0)
    assert len(encoder.chosen_layers()) == 6
    for num_layers in (-1, 7):
        with pytest.raises(ValueError, match=f"--num-layers {num_layers}: give 1 to 6, all layers"):
            encoder.use_layers(num_layers)
    with pytest.raises(ValueError, match="trained only at its whole depth"):
        Encoder(encoder_config(), num_mel_bins=20).use_layers(2)
