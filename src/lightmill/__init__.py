"""Piles of pictures in, training-ready data sets out."""

__version__ = "0.1.0"
