"""Moves items through stages: fast, in bounded memory, and losing none. Knows nothing of pictures."""
