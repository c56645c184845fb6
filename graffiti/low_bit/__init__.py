"""Low-bit training: weights, activations and gradients of a few bits, by published methods (see ``README.md`` here)."""
