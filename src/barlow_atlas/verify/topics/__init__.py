"""The golden files' topics: for each a module that computes a case's results with our own code.

A topic's module has one function,

    def outputs(case: dict[str, Any]) -> Any: ...

which regenerates the case's inputs (`verify.inputs`), runs the product's functions on them in
float64 and returns what the file has under `outputs`, under the same keys. Results may be tensors,
arrays, numbers, lists and dicts of these; it may return more keys than the file asks for. It raises
`verify.values.Mismatch` where the case asks for something that does not exist here.

To add a topic: write its module, add its name to `TOPICS`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

TOPICS = (
    "bt_variants",
    "byol",
    "imagenet_loss",
    "knn",
    "lars",
    "mix_small_loss",
    "mix_training_steps",
    "moco",
    "network",
    "schedules",
    "simclr",
    "simsiam",
    "swav",
    "vicreg",
    "wmse",
)


def outputs_of(topic: str) -> Callable[[dict[str, Any]], Any]:
    """The function of a topic that turns a case into its outputs; loads the topic's module."""
    outputs: Callable[[dict[str, Any]], Any] = import_module(f"{__name__}.{topic}").outputs
    return outputs
