"""KARMA: the next-interest embedding, one vector a user from a small causal language model (arXiv 2603.22779)."""
