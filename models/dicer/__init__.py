"""DICER: attraction scores of user-item pairs from the social and the interaction graph."""
