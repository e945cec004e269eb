"""What a released model is made of, and how it travels: weights, manifest, card, sums, index, transfer."""
