"""From recordings and texts to padded training batches: features, tokenizer, cut checks and loaders."""
