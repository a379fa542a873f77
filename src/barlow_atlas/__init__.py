"""Barlow Atlas: where representations get better along pre-training, and where they get worse."""

__version__ = "0.1.0"
