"""Learning: KARMA (interest embeddings) and DICER (attraction scores). Knows tables and tensors, not stores."""
