"""The one place that imports torchvision: `from barlow_atlas.nn.vision import torchvision`.

A torchvision built for CUDA beside a CPU build of torch (what a package index without the matching
local versions hands out) fails at its import: it registers shape rules for operators of its
compiled library, which could not be loaded. Declaring these two operators is enough for data sets,
transforms and models; nothing here calls them.
"""

import sys
from typing import Any

import torch

_OPERATORS_OF_THE_COMPILED_LIBRARY = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
        raise
    for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    # The library object owns the declarations: they vanish when it is collected.
    _library: Any = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS_OF_THE_COMPILED_LIBRARY:
        _library.define(name + _SIGNATURE)
    import torchvision

__all__ = ["torchvision"]
