"""Augmentation of whole batches of uint8 images on the device, one draw of parameters per image.

Two halves that meet in `ViewParameters`:

- `draw` turns random numbers into the parameters of one view of n images, always on the CPU, so
  that views do not depend on the device; every image uses up the same amount of random numbers.
- `apply` carries them out on the device that holds the images. It has no random numbers, no loop
  over images and nothing that makes the host wait for the device.

`apply` has two forms, which share the formula of every operation. The plain one works on no image
that does not need it: every choice (which image is jittered, blurred, ...) is made from the
parameters on the CPU and travels as an index. The compiled one carries every operation out on all
images and keeps the result where it was asked for. That is more arithmetic, but no size depends on
what was drawn, so that the compiler can merge it into few kernels.

Operations mean what they mean in torchvision.transforms.v2.functional on float images between 0
and 1. The papers' code works on 8-bit PIL images and rounds to 1/255 after every operation; here
nothing is rounded. Resampling and blurring are linear and separable, so each is carried out as two
small matrix products per image, `w_y @ image @ w_x^T`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from barlow_atlas.nn import processes
from barlow_atlas.nn.devices import sent
from barlow_atlas.settings.augmentation import Augmentation

Triple = tuple[float, float, float]
Interpolation = Literal["bilinear", "bicubic"]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""The four operations of the colour jitter as they are numbered in `ViewParameters.order`."""

WAITING = 4
"""No operation."""

OF_HUE = (False, True, False, False, True, False)
"""Whether a stage of the jitter is of hue; else it is of the other three."""

LUMA = (0.2989, 0.587, 0.114)
"""Weights of R, G, B in the grayscale image (ITU-R BT.601, as torchvision rounds them)."""

CROP_ATTEMPTS = 10
"""Boxes tried before the central one is taken, as in torchvision's RandomResizedCrop."""

FEW = 1 << 21
"""Numbers of a batch of images for which one thread of a CPU is enough."""


@dataclass(frozen=True)
class ViewParameters:
    """All that is random in one view of n images: CPU tensors whose first dimension is the image.

    `parameters[rows]` are those of some of the images: a slice, or a tensor of indices.
    """

    top: Tensor  # (n,) int64, first row of the crop box, pixels
    left: Tensor  # (n,) int64, first column
    height: Tensor  # (n,) int64, rows in the box
    width: Tensor  # (n,) int64, columns
    flip: Tensor  # (n,) bool, mirror left and right
    jitter: Tensor  # (n,) bool, whether the next five apply
    order: Tensor  # (n, 4) int64, BRIGHTNESS, CONTRAST, SATURATION, HUE in the order of use
    brightness: Tensor  # (n,) float32, factor; 1 changes nothing
    contrast: Tensor  # (n,) float32, factor; 1 changes nothing
    saturation: Tensor  # (n,) float32, factor; 1 changes nothing
    hue: Tensor  # (n,) float32, shift in turns of the colour circle, -0.5 to 0.5
    grayscale: Tensor  # (n,) bool
    blur: Tensor  # (n,) bool
    sigma: Tensor  # (n,) float32, standard deviation of the blur, pixels
    solarise: Tensor  # (n,) bool

    def __len__(self) -> int:
        return len(self.top)

    def __getitem__(self, rows: slice | Tensor) -> "ViewParameters":
        return ViewParameters(**{name: getattr(self, name)[rows] for name in _NAMES})


_NAMES = tuple(field.name for field in fields(ViewParameters))


def draw(
    augmentation: Augmentation,
    n: int,
    height: int | Tensor,
    width: int | Tensor,
    generator: torch.Generator,
) -> ViewParameters:
    """Parameters of one view of n images of height x width pixels, or of sizes (n,) of their own.

    Image i takes the i-th row of one matrix of uniform numbers, all columns of it whatever comes
    out and whatever the augmentation asks for. So the draw for a batch, sliced, is the draw of the
    slice, and switching an operation on or off leaves the other operations' draws as they were.
    """
    columns = 2 * CROP_ATTEMPTS + 16
    uniform = torch.rand(n, columns, generator=generator, dtype=torch.float64)
    area, ratio, place, keys, factors, flags, rest = torch.split(
        uniform, [CROP_ATTEMPTS, CROP_ATTEMPTS, 2, 4, 4, 5, 1], dim=1
    )
    top, left, box_height, box_width = _crop_boxes(
        area, ratio, place, height, width, augmentation.crop_scale, augmentation.crop_ratio
    )
    a = augmentation
    chances = [a.flip_p, a.jitter_p, a.grayscale_p, a.blur_p, a.solarise_p]
    flip, jitter, grayscale, blur, solarise = (
        flags < torch.tensor(chances, dtype=torch.float64)
    ).unbind(dim=1)
    reach = torch.tensor([a.brightness, a.contrast, a.saturation, a.hue], dtype=torch.float64)
    middle = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    # A factor does not go below 0; a shift may.
    low = torch.maximum(middle - reach, middle - 1)
    brightness, contrast, saturation, hue = (
        (low + (middle + reach - low) * factors).float().unbind(dim=1)
    )
    return ViewParameters(
        top=top,
        left=left,
        height=box_height,
        width=box_width,
        flip=flip,
        jitter=jitter,
        # The order of four independent uniform numbers is a uniform permutation.
        order=keys.argsort(dim=1),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        grayscale=grayscale,
        blur=blur,
        sigma=_between(rest[:, 0], *augmentation.blur_sigma).float(),
        solarise=solarise,
    )


def drawn(
    images: Tensor,
    augmentation: Augmentation,
    size: int,
    mean: Triple,
    std: Triple,
    generator: torch.Generator,
    compiled: bool = False,
) -> Tensor:
    """A view of own images (n, 3, H, W): `draw` for the whole batch, then `apply` to the own."""
    parameters = draw_own(images, augmentation, generator)
    return apply(images, parameters, augmentation, size, mean, std, compiled)


def draw_own(
    images: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> ViewParameters:
    """Parameters of own images (n, 3, H, W): their rows of a `draw` for the whole batch."""
    n, _, height, width = images.shape
    batch = processes.count() * n
    return draw(augmentation, batch, height, width, generator)[processes.own_rows(batch)]


def apply(
    images: Tensor,
    parameters: ViewParameters,
    augmentation: Augmentation,
    size: int | None,
    mean: Triple,
    std: Triple,
    compiled: bool = False,
) -> Tensor:
    """The view: images (N, 3, H, W) uint8 on any device -> (N, 3, size, size) float32, normalised.

    Image i's view depends on image i and its parameters only, not on its neighbours in the batch.
    The images are left as they are.

    Args:
        size: None for images that were cropped to the view's size before, see `nn/geometry.py`.
        compiled: whether to let torch.compile merge the operations. Each augmentation and each
            shape of `images` is compiled once, which takes seconds and, on a CPU, a C++ compiler.
            The views are the same but for float32 rounding.
    """
    _check(images)
    if len(parameters) != len(images):
        raise ValueError(f"parameters for {len(parameters)} images, but {len(images)} images")
    with _full_precision(images.device), _few_on_one_thread(images):
        if compiled:
            table = sent(_pack(parameters), images.device)
            return _compiled(augmentation, size, mean, std)(images, table)
        view = _unit_interval(images)
        if size is not None and not augmentation.crop_last:
            view = crop(view, parameters, size, augmentation.interpolation)
        view = colour(view, parameters, augmentation)
        if size is not None and augmentation.crop_last:
            view = crop(view, parameters, size, augmentation.interpolation)
        return _normalise(view, mean, std)


def of_each(
    images: Sequence[Tensor],
    parameters: Sequence[ViewParameters],
    augmentations: Sequence[Augmentation],
    size: int | None,
    mean: Triple,
    std: Triple,
    compiled: bool = False,
) -> list[Tensor]:
    """`apply`, for several views with images of their own.

    On a GPU in one batch, where the augmentations differ in nothing but what is drawn: as many
    kernels as one view has.
    """
    first = augmentations[0]
    alike = all(_carried_out(each) == _carried_out(first) for each in augmentations)
    if images[0].device.type == "cuda" and alike and not compiled:
        return in_one_batch(images, parameters, first, size, mean, std)
    return [
        apply(pixels, drawn, augmentation, size, mean, std, compiled)
        for pixels, drawn, augmentation in zip(images, parameters, augmentations, strict=True)
    ]


def in_one_batch(
    images: Sequence[Tensor],
    parameters: Sequence[ViewParameters],
    augmentation: Augmentation,
    size: int | None,
    mean: Triple,
    std: Triple,
) -> list[Tensor]:
    """As `of_each`, by one call of `apply`."""
    joined = ViewParameters(
        **{name: torch.cat([getattr(each, name) for each in parameters]) for name in _NAMES}
    )
    views = apply(torch.cat([*images]), joined, augmentation, size, mean, std)
    return list(views.chunk(len(images)))


def _carried_out(augmentation: Augmentation) -> dict[str, Any]:
    """The settings that `apply` needs beside what was drawn, and those by which a whole batch goes
    without an operation: where others need it, it rounds."""
    needed = {"interpolation", "crop_last", "blur_sigma", "solarise_threshold"}
    return augmentation.model_dump(include=needed | {"brightness", "contrast", "saturation", "hue"})


def evaluate(
    images: Tensor,
    size: int,
    resize: int | None,
    mean: Triple,
    std: Triple,
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """Images as a trained network is shown them: (N, 3, H, W) uint8 -> (N, 3, size, size) float32.

    The shorter side becomes `resize` (None: `size`) and the longer one keeps the proportion,
    rounded down; then the centre of size x size is cut out, normalised. Where no size changes, no
    pixel does.
    """
    _check(images)
    height, width = images.shape[-2:]
    shorter = size if resize is None else resize
    if shorter < size:
        raise ValueError(f"cannot cut {size} pixels out of images resized to {shorter}")
    with _full_precision(images.device):
        view = _unit_interval(images)
        new_height, new_width = (shorter * side // min(height, width) for side in (height, width))
        # Half a pixel goes to the even side, as Python's and torchvision's rounding have it.
        first_row, first_column = round((new_height - size) / 2), round((new_width - size) / 2)
        if (new_height, new_width) == (height, width):
            view = view[..., first_row : first_row + size, first_column : first_column + size]
        else:
            # One pair of matrices for all images, with the rows that end up inside the centre.
            w_y, w_x = (
                _resampling_matrices(
                    torch.zeros(1),
                    torch.full((1,), float(old)),
                    (torch.arange(size) + (first + 0.5))[None] / new,
                    old,
                    new,
                    interpolation,
                    images.device,
                )
                for old, new, first in (
                    (height, new_height, first_row),
                    (width, new_width, first_column),
                )
            )
            view = w_y[0] @ (view @ w_x[0].mT)
            if interpolation == "bicubic":
                view.clamp_(0, 1)
        return _normalise(view.contiguous(), mean, std)


def crop(
    images: Tensor, parameters: ViewParameters, size: int, interpolation: Interpolation
) -> Tensor:
    """Cut out the boxes, resize them and flip: (N, 3, H, W) float -> (N, 3, size, size).

    The resize is torchvision's with antialias=True of the cropped image: pixels outside the box
    take no part. Cubic kernels overshoot; the result is cut to [0, 1], as 8-bit images are.
    """
    height, width = images.shape[-2:]
    p = parameters
    # Rows and columns, (2, n); whole numbers below 2^24 are exact in float32.
    flip = torch.stack([torch.zeros_like(p.flip), p.flip]).float()
    first, extent = torch.stack([p.top, p.left, p.height, p.width]).float().view(2, 2, len(p))
    # Centres of the output pixels as shares of the box, 0 to 1. A flipped row is read from the
    # right: c -> 1 - c.
    centres = (torch.arange(size, device=flip.device) + 0.5) / size
    centres = flip[..., None] + (1 - 2 * flip)[..., None] * centres
    rest = size, interpolation, images.device
    if height == width and _counts_kernels(images.device):
        boxes = first.flatten(), extent.flatten(), centres.flatten(0, 1)
        w_y, w_x = _resampling_matrices(*boxes, height, *rest).chunk(2)
    else:
        w_y, w_x = (
            _resampling_matrices(first[k], extent[k], centres[k], length, *rest)
            for k, length in enumerate((height, width))
        )
    view = _separable(images, w_y, w_x)
    return view.clamp_(0, 1) if interpolation == "bicubic" else view


def colour(images: Tensor, parameters: ViewParameters, augmentation: Augmentation) -> Tensor:
    """Jitter, grayscale, blur, solarise: (N, 3, H, W) float in [0, 1], changed in place."""
    colour_jitter(images, parameters)
    rows = _rows(parameters.grayscale)
    if len(rows):
        _replace(images, rows, grayscale)
    rows = _rows(parameters.blur)
    if len(rows):
        radius = blur_radius(augmentation.blur_sigma[1], min(images.shape[-2:]))
        sigma = sent(parameters.sigma[rows], images.device)
        _replace(images, rows, lambda part: gaussian_blur(part, sigma, radius))
    rows = _rows(parameters.solarise)
    if len(rows):
        _replace(images, rows, lambda part: solarise(part, augmentation.solarise_threshold))
    return images


def colour_jitter(images: Tensor, parameters: ViewParameters) -> None:
    """Brightness, contrast, saturation and hue, each image in its own order; in place.

    Before each stage the images are sorted by the operation that they need next, so that each
    operation works in place on one slice of the batch and on no image that does not need it. The
    sorting is done on the CPU; the permutations and factors travel. There are as many stages as
    operations or, on a GPU, six that start fewer kernels.
    """
    rows = _rows(parameters.jitter)
    if len(rows) == 0:
        return
    chosen = parameters[rows]
    factors = _factors(chosen)
    needed = (factors != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(dim=0)
    operations = int(needed.sum())
    if operations == 0:
        return
    # (m, operations): what each image needs first, second, ...; the mask keeps as many in each row.
    order = chosen.order[needed[chosen.order]].view(len(rows), operations)
    if needed[HUE] and _counts_kernels(images.device):
        order = _staged(order)
    todo, arrangement = order.sort(dim=0, stable=True)
    # Where image i stands in stage k: the inverse of each column.
    place = arrangement.argsort(dim=0)
    stages = todo.shape[1]
    moves = torch.stack(
        [rows[arrangement[:, 0]]]
        + [place[arrangement[:, k], k - 1] for k in range(1, stages)]
        + [rows[arrangement[:, -1]]]
    )
    moves = sent(moves, images.device)
    # What waits has any factor.
    factors = factors[arrangement, todo.clamp(max=HUE)].T.contiguous()
    amounts = sent(factors, images.device)
    turns = sent(_turns(factors), images.device)
    pixels = images
    for k in range(stages):
        pixels = pixels.index_select(0, moves[k])
        counts = todo[:, k].bincount(minlength=WAITING + 1).tolist()
        parts = torch.split(pixels, counts)
        of_parts = [*torch.split(amounts[k], counts)[:HUE], torch.split(turns[k], counts)[HUE]]
        # What is left over waits.
        for operation, part, amount in zip(_STAGES, parts, of_parts, strict=False):
            if len(part):
                operation(part, amount)
    images.index_copy_(0, moves[-1], pixels)


def _counts_kernels(device: torch.device) -> bool:
    """Whether starting an operation costs more than moving a batch."""
    return device.type == "cuda"


def _staged(order: Tensor) -> Tensor:
    """What each image needs in each stage, (m, stages), from its order (m, operations) with hue.

    Hue takes more passes over the pixels than the others together. It has two stages, the others
    have four, in a sequence that holds all 24 orders. Each image takes the first stage that it can;
    where none takes part there is no stage.
    """
    m, operations = order.shape
    stages = torch.tensor([_stages(hue_at, operations) for hue_at in range(operations)])
    place = (order == HUE).int().argmax(dim=1)
    todo = torch.full((m, len(OF_HUE)), WAITING).scatter_(1, stages[place], order)
    return todo[:, (todo != WAITING).any(dim=0)]


def _stages(hue_at: int, operations: int) -> list[int]:
    """The stages of an image's operations, of which the one at `hue_at` is hue."""
    left = enumerate(OF_HUE)
    return [
        next(stage for stage, of_hue in left if of_hue == (at == hue_at))
        for at in range(operations)
    ]


def brightness(images: Tensor, factor: Tensor) -> None:
    """x <- factor * x, cut to [0, 1]; in place, factor (n,)."""
    images.mul_(_per_image(factor)).clamp_(max=1)


def contrast(images: Tensor, factor: Tensor) -> None:
    """x <- factor * x + (1 - factor) * mean of the grayscale image, cut to [0, 1]; in place."""
    share = (1 - factor) * luma(images.mean(dim=(2, 3)).unbind(dim=1))
    images.mul_(_per_image(factor)).add_(_per_image(share)).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> None:
    """x <- factor * x + (1 - factor) * grayscale image, cut to [0, 1]; in place."""
    grey = luma(images.unbind(dim=1))[:, None]
    images.lerp_(grey, _per_image(1 - factor)).clamp_(0, 1)


def hue(images: Tensor, shift: Tensor) -> None:
    """Turn the colour circle by `shift` (n,) turns at constant saturation and value; in place."""
    turn_colours(images, _turns(shift))


def _turns(shift: Tensor) -> Tensor:
    """How far a red that is turned by `shift` (...) turns lies from pure red, green and blue,
    (..., 3) in sixths of a turn, within [-3, 3].
    """
    turn = 6 * shift[..., None] - torch.arange(0, 6, 2, device=shift.device)
    return turn - 6 * torch.round(turn / 6)


def turn_colours(images: Tensor, turns: Tensor) -> None:
    """`hue`, by the `_turns` (n, 3) of its shifts; in place.

    With v the largest and m the smallest of R, G, B and the hue h in sixths of a turn, each channel
    of a colour is m + (v - m) w(h - h_0), where h_0 = 0, 2, 4 is the hue of pure R, G, B and w the
    trapezoid 2 - |x| cut to [0, 1] on the circle. This is the hexagonal HSV model (A. R. Smith,
    SIGGRAPH 1978) with its six cases in one. Shifting the hue moves h; m and v stay.

    The hue itself: one of the channels' shares r = (R - m) / (v - m), g, b is 1 and one is 0, so
    the way from pure red is 1 - r + g + b, to the side of green where g > b and of blue where not.
    """
    red, green, blue = images.unbind(dim=1)
    least = images.amin(dim=1)
    spread = images.amax(dim=1).sub_(least)
    # A grey pixel has no hue, and with spread 0 any finite one will do.
    h = (green - red).add_(blue).sub_(least).div_(spread.clamp(min=1e-12)).add_(1)
    h.copysign_(green - blue)
    # m + (v - m) (clamp(y, 1, 2) - 1), the last 1 being taken out of the three channels.
    base = least.sub_(spread)
    # x = h + 6 shift - h_0. Both h and the rest are within [-3, 3], hence |x| <= 6, and there the
    # trapezoid of the circle is |3 - |x|| - 1 cut to [0, 1].
    weight = (h[:, None] + turns[:, :, None, None]).abs_().sub_(3).abs_().clamp_(1, 2)
    torch.addcmul(base[:, None], spread[:, None], weight, out=images)


_JITTER = (brightness, contrast, saturation, hue)
_STAGES = (brightness, contrast, saturation, turn_colours)


def luma(planes: Sequence[Tensor]) -> Tensor:
    """Grayscale image: red, green, blue of any one shape -> that shape."""
    red, green, blue = planes
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def grayscale(images: Tensor) -> Tensor:
    """All three channels become the grayscale image: (n, 3, H, W) -> a view of that shape."""
    return luma(images.unbind(dim=1)).unsqueeze(1).expand(-1, 3, -1, -1)


def solarise(images: Tensor, threshold: float) -> Tensor:
    """Values at or above the threshold are inverted, x <- 1 - x: (n, 3, H, W) -> the same."""
    return torch.where(images >= threshold, 1 - images, images)


def blur_radius(largest_sigma: float, shorter_side: int) -> int:
    """Pixels on each side that the blur's kernel reaches: 4 sigma of the widest kernel drawn.

    Reflection at the border needs it to be less than the image's side.
    """
    return min(math.ceil(4 * largest_sigma), shorter_side - 1)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """torchvision's gaussian_blur with kernel size 2 radius + 1: (n, 3, H, W) -> the same shape.

    exp(-d^2 / (2 sigma^2)) at the integer distances up to `radius`, made to sum to 1, on the image
    continued by reflection about its outermost pixels.

    The papers' code blurs with PIL, whose sigma is in pixels whatever the image's size and whose
    kernel has no cut-off of its own (it is three box filters). BYOL and SimCLR cut the Gaussian to
    a kernel of a tenth of the image: 23 pixels for 224, which at sigma <= 2 is the whole Gaussian
    too, but 3 for CIFAR, which would turn sigma = 2 into a box filter. Hence the whole Gaussian
    here, cut where it is 4 sigma wide: less than 1/255 from either at 224 pixels.
    """
    height, width = images.shape[-2:]
    w_y = _blur_matrices(sigma, height, radius)
    w_x = w_y if height == width else _blur_matrices(sigma, width, radius)
    return _separable(images, w_y, w_x)


def _blur_matrices(sigma: Tensor, length: int, radius: int) -> Tensor:
    """sigma (n,) -> (n, length, length): row i holds the weights of the pixels in output pixel i.

    Pixel j stands on the reflected line at j, at -j (left of pixel 0) and at 2 (length - 1) - j
    (right of the last pixel); the outermost pixels themselves are not repeated. How often it
    stands at distance d from pixel i is the same for all sigma.
    """
    distance = torch.arange(radius + 1, device=sigma.device)
    pixel = torch.arange(length, device=sigma.device)
    never = length + radius
    times = torch.zeros(radius + 1, length, length, device=sigma.device)
    for image_of_j in (
        pixel,
        torch.where(pixel > 0, -pixel, -never),
        torch.where(pixel < length - 1, 2 * (length - 1) - pixel, 2 * never),
    ):
        times += (pixel[:, None] - image_of_j).abs() == distance[:, None, None]
    kernel = torch.exp(-distance.square() / (2 * sigma.square())[:, None])
    # All of the kernel falls on some pixel: one sum for all rows.
    kernel = kernel / (2 * kernel.sum(dim=1, keepdim=True) - 1)
    return (kernel @ times.flatten(1)).view(len(sigma), length, length)


def _resampling_matrices(
    first: Tensor,
    extent: Tensor,
    centres: Tensor,
    length: int,
    size: int,
    interpolation: Interpolation,
    device: torch.device,
) -> Tensor:
    """Antialiased resize of the pixels [first, first + extent) to `size`: (n, S, length).

    `first` and `extent` (n,) in pixels; `centres` (n, S): where the wanted output pixels lie, as
    shares of the extent. Row i holds the weights of the `length` input pixels in output pixel i:
    the kernel around the centre, stretched by the down-sampling factor (never shrunk), zero
    outside the extent and made to sum to 1.

    What is small is computed where the boxes are, on the CPU; the matrices on the device.
    """
    stretch = (extent / size).clamp_(min=1)[:, None]
    pixel = (torch.arange(length, device=first.device) + 0.5)[None]
    from_first = pixel - first[:, None]
    inside = (from_first > 0) & (from_first < extent[:, None])
    # Infinitely far away, a pixel outside has no weight: cheaper than a mask on the matrices.
    pixel = torch.where(inside, from_first, math.inf) / stretch
    places = sent(torch.cat([pixel, extent[:, None] * centres / stretch], dim=1), device)
    pixel, centre = torch.split(places, [length, centres.shape[1]], dim=1)
    distance = (pixel[:, None, :] - centre[:, :, None]).abs_()
    weights = _triangle(distance) if interpolation == "bilinear" else _cubic(distance)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _triangle(distance: Tensor) -> Tensor:
    """1 - d up to d = 1, 0 beyond; overwrites `distance`."""
    return distance.neg_().add_(1).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2, the one of PIL (IEEE TASSP 29, 1981).

    (a+2) d^3 - (a+3) d^2 + 1 for d < 1, a (d^3 - 5 d^2 + 8 d - 4) for 1 <= d < 2, 0 beyond. Each
    piece is zero at both ends but for the first one's start, so their sum needs no case.
    """
    near = distance.clamp(max=1)
    far = distance.clamp(1, 2)
    near = (1.5 * near - 2.5).mul_(near).mul_(near).add_(1)
    return near.add_((far - 5).mul_(far).add_(8).mul_(far).sub_(4), alpha=-0.5)


def _separable(images: Tensor, w_y: Tensor, w_x: Tensor) -> Tensor:
    """w_y @ image @ w_x^T: (n, 3, H, W), (n, S, H), (n, T, W) -> (n, 3, S, T)."""
    n, channels, height, width = images.shape
    across = torch.bmm(images.reshape(n, channels * height, width), w_x.mT)
    across = across.view(n, channels, height, w_x.shape[1])
    return torch.matmul(w_y[:, None], across)


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


def _per_image(values: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1), to go with images."""
    return values.view(-1, 1, 1, 1)


def _factors(parameters: ViewParameters) -> Tensor:
    """(n, 4) in the order in which the operations are numbered."""
    p = parameters
    return torch.stack([p.brightness, p.contrast, p.saturation, p.hue], dim=1)


def _rows(flags: Tensor) -> Tensor:
    """Indices of the images whose flag is set, on the CPU as the flags are."""
    return flags.nonzero().squeeze(1)


def _replace(images: Tensor, rows: Tensor, operation: Callable[[Tensor], Tensor]) -> None:
    """images[rows] <- operation(images[rows])."""
    if len(rows) == len(images):
        images.copy_(operation(images))
    else:
        rows = sent(rows, images.device)
        images.index_copy_(0, rows, operation(images.index_select(0, rows)))


def _unit_interval(images: Tensor) -> Tensor:
    """uint8 -> float32 between 0 and 1."""
    return images.to(torch.float32).div_(255)


def _normalise(images: Tensor, mean: Triple, std: Triple) -> Tensor:
    """(x - mean) / std in each channel, in place."""
    shift, scale = sent(torch.tensor([mean, std]).view(2, 3, 1, 1), images.device)
    return images.sub_(shift).div_(scale)


def _check(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(
            f"expected images (N, 3, H, W) of uint8, got {tuple(images.shape)} of {images.dtype}"
        )


@cache
def _compiled(
    augmentation: Augmentation, size: int | None, mean: Triple, std: Triple
) -> Callable[[Tensor, Tensor], Tensor]:
    """From images and their packed parameters to the view, in one compiled function."""

    def view_of(images: Tensor, table: Tensor) -> Tensor:
        parameters = _unpack(table)
        view = _unit_interval(images)
        if size is not None and not augmentation.crop_last:
            view = crop(view, parameters, size, augmentation.interpolation)
        view = _colour_where_chosen(view, parameters, augmentation)
        if size is not None and augmentation.crop_last:
            view = crop(view, parameters, size, augmentation.interpolation)
        channels = zip(view.unbind(dim=1), mean, std, strict=True)
        return torch.stack([(x - m) / s for x, m, s in channels], dim=1)

    return torch.compile(view_of, dynamic=False, fullgraph=True)


def _colour_where_chosen(
    images: Tensor, parameters: ViewParameters, augmentation: Augmentation
) -> Tensor:
    """`colour` by carrying out each operation on all images, not in place."""
    a, p = augmentation, parameters
    if a.jitter_p > 0:
        strengths = (a.brightness, a.contrast, a.saturation, a.hue)
        factors = _factors(p)
        for turn in p.order.where(p.jitter[:, None].bool(), -1).unbind(dim=1):
            before = images
            for number, operation in enumerate(_JITTER):
                if strengths[number] > 0:
                    changed = before.clone()
                    operation(changed, factors[:, number])
                    images = _where(turn == number, changed, images)
    if a.grayscale_p > 0:
        images = _where(p.grayscale, grayscale(images), images)
    if a.blur_p > 0:
        radius = blur_radius(a.blur_sigma[1], min(images.shape[-2:]))
        images = _where(p.blur, gaussian_blur(images, p.sigma, radius), images)
    if a.solarise_p > 0:
        images = _where(p.solarise, solarise(images, a.solarise_threshold), images)
    return images


def _where(chosen: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """The changed ones of the images that are chosen, the others as they are."""
    return torch.where(_per_image(chosen).bool(), changed, images)


def _pack(parameters: ViewParameters) -> Tensor:
    """All parameters in one matrix (n, columns); whole numbers below 2^24 are exact in float32."""
    columns = [getattr(parameters, name).float() for name in _NAMES]
    return torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], dim=1)


def _unpack(table: Tensor) -> ViewParameters:
    """What `_pack` has packed: the same numbers, all of them float32 now."""
    widths = [4 if name == "order" else 1 for name in _NAMES]
    columns = zip(_NAMES, torch.split(table, widths, dim=1), strict=True)
    return ViewParameters(**{k: v if k == "order" else v.squeeze(1) for k, v in columns})


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products in float32 proper, whatever autocast and TF32 settings the training uses.

    TF32 keeps 10 bits and bfloat16 7; a pixel has 8, and views must not depend on the device.
    These settings belong to the process: make no views in a thread beside the training.
    """
    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with ExitStack() as stack:
            if torch.amp.is_autocast_available(device.type):
                stack.enter_context(torch.autocast(device.type, enabled=False))
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


@contextmanager
def _few_on_one_thread(images: Tensor) -> Iterator[None]:
    """On a CPU, waking a second thread for each operation on so few numbers takes longer than the
    operation: views of 256 images of 32 x 32 pixels took 1.4 times as long on two cores."""
    threads = torch.get_num_threads()
    if images.is_cuda or images.numel() > FEW:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _crop_boxes(
    area: Tensor,
    ratio: Tensor,
    place: Tensor,
    height: int | Tensor,
    width: int | Tensor,
    scale_range: tuple[float, float],
    ratio_range: tuple[float, float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (top, left, height, width), each (n,) int64, distributed as RandomResizedCrop's.

    From uniform numbers: `area` and `ratio` (n, attempts), `place` (n, 2), of images that have one
    height and width or (n,) of their own. An attempt is a box of a
    uniform share of the image's area and a log-uniform width / height; the first one that fits is
    placed uniformly. If none fits, the largest central box with an admissible ratio is taken.
    """
    sides = torch.empty(len(area), 2, dtype=torch.int64)
    sides[:, 0], sides[:, 1] = height, width
    rows, columns = sides[:, :1], sides[:, 1:]
    share = rows * columns * _between(area, *scale_range)
    aspect = torch.exp(_between(ratio, math.log(ratio_range[0]), math.log(ratio_range[1])))
    box_width = torch.sqrt(share * aspect).round().long()
    box_height = torch.sqrt(share / aspect).round().long()
    fits = (box_width > 0) & (box_width <= columns) & (box_height > 0) & (box_height <= rows)
    # argmax finds the first of equal values.
    first = fits.int().argmax(dim=1, keepdim=True)
    success = fits.any(dim=1)
    central = (
        torch.minimum(rows, (columns.double() / ratio_range[0]).round().long().clamp(min=1)),
        torch.minimum(columns, (rows.double() * ratio_range[1]).round().long().clamp(min=1)),
    )
    box_height = torch.where(success, box_height.gather(1, first).squeeze(1), central[0].squeeze(1))
    box_width = torch.where(success, box_width.gather(1, first).squeeze(1), central[1].squeeze(1))
    room = sides - torch.stack([box_height, box_width], dim=1)
    # u < 1, and in float64 u * k < k for every whole k below 2^53: never one pixel too far.
    corner = torch.where(success[:, None], (place * (room + 1)).long(), room // 2)
    return corner[:, 0], corner[:, 1], box_height, box_width
