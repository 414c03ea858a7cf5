"""A small renderer of scenes with exact ground truth: for the demo, the docs and the tests."""
