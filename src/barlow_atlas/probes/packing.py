"""How probe files hold arrays as text: answers as bits, correlations as bytes. Imports no torch."""

import base64

import numpy as np

CORRELATION_STEPS = 127
"""A correlation is kept to 1 / 127, which no eye can tell in a picture."""


def pack(correct: np.ndarray) -> str:
    """Booleans (n,) as base64 of their bits, first image in the highest bit of the first byte."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack(text: str, count: int) -> np.ndarray:
    """The booleans (count,) that `pack` packed."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def pack_correlations(matrix: np.ndarray) -> str:
    """Correlations (k, k), between -1 and 1, as base64 of a signed byte each, row by row."""
    steps = np.rint(CORRELATION_STEPS * np.clip(matrix, -1, 1))
    return base64.b64encode(steps.astype(np.int8).tobytes()).decode()


def unpack_correlations(text: str, k: int) -> np.ndarray:
    """The matrix (k, k) that `pack_correlations` packed, to 1 / 254."""
    steps = np.frombuffer(base64.b64decode(text), np.int8)
    return steps.reshape(k, k) / CORRELATION_STEPS
