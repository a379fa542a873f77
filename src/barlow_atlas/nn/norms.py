"""Batch norm over the batch of all processes or a part of it, and of views that pass together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from barlow_atlas.nn import processes


class PerView(nn.modules.batchnorm._BatchNorm):
    """Batch norm of a batch that holds `views` views, one after another: statistics of each view.

    The running statistics see the views in this order, as if each had passed alone.
    """

    views = 1
    weights_of_views: Sequence[tuple[Tensor, Tensor]] = ()
    """Weight and bias for each view, if they are not the norm's own (`of_each_view`)."""
    of_own_rows = False
    """Whether what comes in are a process' own rows of a batch that has statistics in common."""

    def forward(self, images: Tensor) -> Tensor:
        one: Callable[[Tensor], Tensor] = super().forward
        if self.training and self.of_own_rows and processes.count() > 1:
            one = self._over_processes
        if self.views == 1:
            return one(images)
        views = images.chunk(self.views)
        if not self.weights_of_views:
            return torch.cat([one(view) for view in views])
        pairs = zip(views, self.weights_of_views, strict=True)
        return torch.cat([self._weighted(view, *weights) for view, weights in pairs])

    def _weighted(self, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """As torch's batch norm in training, with these for weight and bias."""
        assert self.momentum is not None
        moved = self.running_mean, self.running_var
        return batch_norm(images, *moved, weight, bias, True, self.momentum, self.eps)

    def leave_uncompiled(self) -> None:
        """Keeps out of the graphs of a compiled pass what they cannot hold: what processes do
        together, and running statistics that are exchanged (`moved_apart`).
        """
        if not self.of_own_rows:
            alone = torch.compiler.disable(self.forward)  # type: ignore[no-untyped-call]
            self.forward = alone  # type: ignore[method-assign]
        elif processes.count() > 1:
            apart = torch.compiler.disable(self._over_processes)  # type: ignore[no-untyped-call]
            self._over_processes = apart  # type: ignore[method-assign]

    def _over_processes(self, images: Tensor) -> Tensor:
        """As torch's batch norm in training, of the rows of all processes."""
        normalised, mean, variance = synchronised(images, self.weight, self.bias, self.eps)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        n = images.numel() // len(mean) * processes.count()
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            unbiased = (variance * n / (n - 1)).to(self.running_var)
            self.running_var.lerp_(unbiased, self.momentum)
        return normalised


class PerViewBatchNorm1d(PerView, nn.BatchNorm1d):
    pass


class PerViewBatchNorm2d(PerView, nn.BatchNorm2d):
    pass


@contextmanager
def of_each_view(norms: Sequence[PerView], views: int, compiled: bool) -> Iterator[None]:
    """While entered, the norms have statistics of each of the `views` views in a batch.

    What would take a kernel for each norm is done for all of them at once: the passes are counted
    and, unless they are compiled, the views' gradients of weights and biases added.
    """
    counters = [norm.num_batches_tracked for norm in norms]
    counted = [
        counter
        for norm, counter in zip(norms, counters, strict=True)
        if norm.training and counter is not None
    ]
    if counted:
        torch._foreach_add_(counted, views)
    weighted = [norm for norm in norms if not compiled and _is_plain(norm)]
    for norm, weights in zip(weighted, _weights_of_each_view(weighted, views), strict=True):
        norm.weights_of_views = weights
    for norm in norms:
        norm.views = views
        norm.num_batches_tracked = None
    try:
        yield
    finally:  # also where a pass that is repeated ends before its end
        for norm, counter in zip(norms, counters, strict=True):
            norm.views = 1
            norm.weights_of_views = ()
            norm.num_batches_tracked = counter


def _is_plain(norm: PerView) -> bool:
    """Whether a pass through it is torch's batch norm of a process' own rows, with weights."""
    of_all = norm.of_own_rows and processes.count() > 1
    kinds = (PerViewBatchNorm1d, PerViewBatchNorm2d)
    return type(norm) in kinds and norm.affine and norm.training and not of_all


def _weights_of_each_view(
    norms: Sequence[PerView], views: int
) -> list[list[tuple[Tensor, Tensor]]]:
    """Of each norm its weight and bias, once for each view."""
    own = [weights for norm in norms for weights in (norm.weight, norm.bias)]
    given = iter(_OnceForEachView.apply(views, *own))
    of_views = [[(next(given), next(given)) for _ in norms] for _ in range(views)]
    return [list(of_norm) for of_norm in zip(*of_views, strict=True)]


class _OnceForEachView(torch.autograd.Function):
    """The tensors, once for each view, in whose gradients autograd would take an addition each."""

    @staticmethod
    def forward(ctx: Any, views: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.views = views
        return tuple(tensor.view_as(tensor) for _ in range(views) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        n = len(gradients) // ctx.views
        # From the last view to the first, as autograd would.
        *others, total = (gradients[k * n : (k + 1) * n] for k in range(ctx.views))
        for of_view in reversed(others):
            total = torch._foreach_add(total, of_view)
        return None, *total


@contextmanager
def moved_apart(norms: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """While entered, passes move copies of the norms' running statistics, and not these themselves.

    Others in their place, since a graph holds those that it was recorded with.

    Yields:
        The copies, in the order of `buffers()`.
    """
    stood = [(norm, *named) for norm in norms for named in norm.named_buffers(recurse=False)]
    copies = [buffer.clone() for *_, buffer in stood]
    try:
        for (norm, name, _), copy in zip(stood, copies, strict=True):
            setattr(norm, name, copy)
        yield copies
    finally:
        for norm, name, buffer in stood:
            setattr(norm, name, buffer)


def move_to_mean(norms: Sequence[nn.Module], moved: Sequence[Sequence[Tensor]]) -> None:
    """Moves the norms' running statistics to the mean of where parts of the batch have moved them.

    Args:
        moved: of each part of this process what `moved_apart` gave; all processes have as many.
    """
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    parts = torch.stack([torch.cat([each.double().flatten() for each in one]) for one in moved])
    mean = processes.sum_of_all(parts.mean(0)) / processes.count()
    places = torch.split(mean, [buffer.numel() for buffer in buffers])
    for buffer, place in zip(buffers, places, strict=True):
        buffer.copy_(place.view_as(buffer))


def over_batch(z: Tensor, eps: float) -> Tensor:
    """Batch norm without weight, bias or running statistics of own rows z (n, d), (n, d)."""
    if processes.count() == 1:
        return batch_norm(z, None, None, training=True, eps=eps)
    normalised, _, _ = synchronised(z, None, None, eps)
    return normalised


def synchronised(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm of own rows x (n, C, ...) by the statistics of all processes' rows.

    In two passes, the sum and then the centred squares, in float32 at least: as exact as one
    process. torch's SyncBatchNorm is for GPUs only, and without a process group a plain batch norm.

    Returns:
        The normalised rows in the type of x, and mean and biased variance of each channel, (C,).
    """
    return cast("tuple[Tensor, Tensor, Tensor]", _Synchronised.apply(x, weight, bias, eps))


class _Synchronised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        ctx.n = x.numel() // x.shape[1] * processes.count()
        mean = processes.sum_of_all(_per_channel(wide)) / ctx.n
        centred = wide - _along(mean, x)
        variance = processes.sum_of_all(_per_channel(centred.square())) / ctx.n
        scale = (variance + eps).rsqrt()
        normalised = centred * _along(scale, x)
        if weight is not None:
            normalised = normalised * _along(weight, x)
        if bias is not None:
            normalised = normalised + _along(bias, x)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance)
        return normalised.to(x.dtype), mean, variance

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale = ctx.saved_tensors
        gradient = gradient.to(mean.dtype)
        normalised = (x - _along(mean, x)) * _along(scale, x)
        sums = torch.stack([_per_channel(gradient), _per_channel(gradient * normalised)])
        bias_gradient, weight_gradient = sums
        shift, slope = processes.sum_of_all(sums.clone()) / ctx.n
        centred = gradient - _along(shift, x) - normalised * _along(slope, x)
        factor = scale if weight is None else scale * weight
        return (
            (centred * _along(factor, x)).to(x.dtype),
            None if weight is None else weight_gradient,
            bias_gradient if ctx.has_bias else None,
            None,
        )


def _per_channel(x: Tensor) -> Tensor:
    """Sums over all but the channels of x (n, C, ...), (C,)."""
    return x.sum([d for d in range(x.ndim) if d != 1])


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Values of channels (C,), in a shape that goes with x (n, C, ...)."""
    return values.view(-1, *[1] * (x.ndim - 2))
