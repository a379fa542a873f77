"""What part of an image is seen, and at which size: done on the CPU, image by image, on 8-bit
pixels. The rest of a view, its colours, is made on the device (`nn/views.py`).

Resizing is torch's antialiased one, which is Pillow's up to rounding, of the cropped image alone:
pixels outside the box take no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from barlow_atlas.data.loader import Request
from barlow_atlas.data.originals import OriginalSet
from barlow_atlas.nn import views
from barlow_atlas.nn.views import Interpolation, ViewParameters
from barlow_atlas.settings.augmentation import Augmentation


@dataclass(frozen=True)
class DrawnViews(Request):
    """Random views of a batch, one for each of some augmentations."""

    augmentations: Sequence[Augmentation]
    parameters: Sequence[ViewParameters]

    def finished(
        self, pixels: Tensor, mean: views.Triple, std: views.Triple, compiled: bool = False
    ) -> list[Tensor]:
        """The views, float32 (n, 3, S, S), of cropped pixels, uint8 (views, n, 3, S, S)."""
        return views.of_each(
            [*pixels], self.parameters, self.augmentations, None, mean, std, compiled
        )


def drawn_views(
    images: OriginalSet,
    places: Tensor,
    augmentations: Sequence[Augmentation],
    size: int,
    generators: Sequence[torch.Generator],
    rows: slice = slice(None),
) -> DrawnViews:
    """Views of the images at `places`, int64 (N,), with parameters from one generator each.

    Args:
        rows: those of the batch that are wanted here. Parameters are drawn for the whole batch, so
            that each image has the views that it would have in any other division of the batch.
    """
    heights, widths = torch.from_numpy(images.sizes(places.numpy())).unbind(dim=1)
    drawn = [
        views.draw(augmentation, len(places), heights, widths, draws)[rows]
        for augmentation, draws in zip(augmentations, generators, strict=True)
    ]
    boxes = [
        torch.stack([each.top, each.left, each.height, each.width, each.flip.long()], 1).tolist()
        for each in drawn
    ]

    def show(row: int, image: Tensor) -> list[Tensor]:
        return [
            cropped(image, view_boxes[row], size, augmentation.interpolation)
            for view_boxes, augmentation in zip(boxes, augmentations, strict=True)
        ]

    return DrawnViews(places[rows], show, len(drawn), size, augmentations, drawn)


def cropped(image: Tensor, box: Sequence[int], size: int, interpolation: Interpolation) -> Tensor:
    """torchvision's resized_crop, then a flip: uint8 (3, H, W) -> (3, size, size).

    Args:
        box: top, left, height, width, and whether to mirror left and right.
    """
    top, left, height, width, flip = box
    view = _resized(image[:, top : top + height, left : left + width], size, size, interpolation)
    return view.flip(2) if flip else view


def whole_views(places: Tensor, size: int, resize: int | None, how: Interpolation) -> Request:
    """Images as a trained network is shown them; see `views.evaluate`, of which this is the part
    before the normalisation."""
    shorter = size if resize is None else resize
    if shorter < size:
        raise ValueError(f"cannot cut {size} pixels out of images resized to {shorter}")

    def show(_: int, image: Tensor) -> list[Tensor]:
        height, width = image.shape[1:]
        new_height, new_width = (shorter * side // min(height, width) for side in (height, width))
        top, left = round((new_height - size) / 2), round((new_width - size) / 2)
        resized = _resized(image, new_height, new_width, how)
        return [resized[:, top : top + size, left : left + size]]

    return Request(places, show, 1, size)


def _resized(image: Tensor, height: int, width: int, how: Interpolation) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    return interpolate(image[None], (height, width), mode=how, antialias=True)[0]
