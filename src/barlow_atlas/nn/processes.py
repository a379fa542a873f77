"""The processes that train one run, and what they compute together.

The batch of a step is that of all processes; each holds an equal part of it, its own rows, in the
order of their numbers. What is computed of whole batches is computed by all alike. A process alone
has the whole batch, and everything here leaves what it is given as it is.

**Gradients.** Every process differentiates an equal share of the loss, which all have in common,
and the gradient of a weight is the sum over processes, whatever it was used for. So the derivative
of a sum over processes is the sum of their derivatives, and that of a gathered batch is each
process' own rows of that sum.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from barlow_atlas.errors import AtlasError
from barlow_atlas.nn.devices import sent

BUCKET_BYTES = 25 << 20
"""Of gradients that are summed at once: the default of torch's own data parallelism."""
DIGEST_BYTES = 8


class PeerLost(AtlasError):
    """Another process does not answer any more, which is never this one's own fault."""


class Divergence(AtlasError):
    """Processes whose states should be equal and are not; the message names process and tensor."""


_alone = False


def count() -> int:
    """How many processes train the run."""
    return distributed.get_world_size() if distributed.is_initialized() and not _alone else 1


@contextmanager
def alone() -> Iterator[None]:
    """While entered, a process' own rows count as a whole batch."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def rank() -> int:
    """This one's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def leads() -> bool:
    """Whether this process is the one that holds locks, reads and writes."""
    return rank() == 0


def own_rows(n: int) -> slice:
    """This process' rows of a batch of n, which is a multiple of the number of processes."""
    share = n // count()
    return slice(rank() * share, (rank() + 1) * share)


def own_share(loss: Tensor) -> Tensor:
    """What this process differentiates of a loss that all have in common."""
    return loss / count() if count() > 1 else loss


# Values over the batch, with derivatives.


def summed(x: Tensor) -> Tensor:
    """The sum over processes of x, of any shape."""
    return x if count() == 1 else cast("Tensor", _Sum.apply(x))


def averaged(x: Tensor) -> Tensor:
    """The mean over processes of x, such as a mean over a process' own rows."""
    return x if count() == 1 else summed(x) / count()


def whole(x: Tensor) -> Tensor:
    """The rows of the whole batch, (N, ...), from each process' own, (n, ...)."""
    return x if count() == 1 else cast("Tensor", _Whole.apply(x))


def rows_at(x: Tensor, places: Tensor) -> Tensor:
    """Rows of the whole batch, one for each own row: `whole(x)[places][own_rows(N)]`, (n, ...).

    Each row travels once, to where it is asked for.

    Args:
        x: own rows, (n, ...).
        places: a permutation of the batch, int64 (N,), on the CPU.
    """
    if count() == 1:
        return x[sent(places, x.device)]
    return cast("Tensor", _RowsAt.apply(x, places))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_of_all(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_of_all(gradient.clone())


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gathered(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_of_all(gradient.clone())[own_rows(len(gradient))]


class _RowsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.places = places
        return _exchanged(x, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _exchanged(gradient, ctx.places.argsort()), None


# The same without derivatives.


def sum_of_all(x: Tensor) -> Tensor:
    """Replaces x by its sum over processes, in place."""
    x = x.contiguous()
    if count() > 1:
        with _answered():
            distributed.all_reduce(x)
    return x


def gathered(x: Tensor) -> Tensor:
    """The rows of the whole batch, (N, ...), from each process' own, (n, ...)."""
    if count() == 1:
        return x
    batch = x.new_empty(count() * len(x), *x.shape[1:])
    with _answered():
        distributed.all_gather(list(batch.chunk(count())), x.contiguous())
    return batch


def first_row(x: Tensor) -> Tensor:
    """The first row of the whole batch, (...), from each process' own rows, (n, ...)."""
    row = x[0].detach()
    if count() == 1:
        return row
    row = row.clone()
    with _answered():
        distributed.broadcast(row, 0)
    return row


def _exchanged(x: Tensor, places: Tensor) -> Tensor:
    """As `rows_at`."""
    n = len(x)
    owners = places // n
    asked_of_me = [asked[asked // n == rank()] - rank() * n for asked in places.view(count(), n)]
    mine = owners[own_rows(len(places))]
    arrived = torch.empty_like(x, memory_format=torch.contiguous_format)
    with _answered():
        distributed.all_to_all_single(
            arrived,
            x[sent(torch.cat(asked_of_me), x.device)].contiguous(),
            mine.bincount(minlength=count()).tolist(),
            [len(rows) for rows in asked_of_me],
        )
    # Rows arrive by owner, and of one owner in the order in which they are asked for.
    return arrived[sent(mine.argsort(stable=True).argsort(), x.device)]


@contextmanager
def _answered() -> Iterator[None]:
    """Turns the failure of a call that all processes take part in into PeerLost."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"the other processes do not answer: {error}") from error


class SummedGradients:
    """Makes the gradients of parameters their sums over processes: `wait` after a backward pass.

    They are summed in buckets, each on its way as soon as it is full and those before it have left,
    while the rest of the backward pass is computed.

    Args:
        parameters: those that are trained, in the order in which they are used.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._buckets: list[list[nn.Parameter]] = []
        if count() > 1:
            trained = [each for each in parameters if each.requires_grad]
            self._buckets = list(_buckets(trained[::-1]))
        self._place = {id(p): k for k, bucket in enumerate(self._buckets) for p in bucket}
        for bucket in self._buckets:
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(self._ready)  # type: ignore[no-untyped-call]
        self._begin()

    def _begin(self) -> None:
        self._waiting = [len(bucket) for bucket in self._buckets]
        self._sent: list[tuple[list[nn.Parameter], Tensor, Any]] = []

    def _ready(self, parameter: Tensor) -> None:
        self._waiting[self._place[id(parameter)]] -= 1
        while len(self._sent) < len(self._buckets) and not self._waiting[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        """Sends the next bucket; what was not used in this step has no gradient on any process."""
        bucket = [p for p in self._buckets[len(self._sent)] if p.grad is not None]
        if not bucket:
            self._sent.append(([], torch.empty(0), None))
            return
        flat = torch.cat([_flat(parameter) for parameter in bucket])
        with _answered():
            self._sent.append((bucket, flat, distributed.all_reduce(flat, async_op=True)))

    def wait(self) -> None:
        """Ends the sums of this backward pass; `grad` of each parameter then is the sum."""
        while len(self._sent) < len(self._buckets):
            self._send()
        for bucket, flat, sum_to_come in self._sent:
            if bucket:
                with _answered():
                    sum_to_come.wait()
                parts = torch.split(flat, [parameter.numel() for parameter in bucket])
                for parameter, part in zip(bucket, parts, strict=True):
                    assert parameter.grad is not None
                    parameter.grad.copy_(part.view(parameter.shape))
        self._begin()


def _flat(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.reshape(-1)


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one type, up to BUCKET_BYTES together."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size >= BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket


# What all processes agree on. Through the CPU, so that no device is waited for.


def any_of(*flags: bool) -> list[bool]:
    """Each flag, whether any process has it set."""
    if count() == 1:
        return list(flags)
    bits = torch.tensor(flags, dtype=torch.uint8)
    with _answered():
        distributed.all_reduce(bits, distributed.ReduceOp.MAX)
    return [bool(flag) for flag in bits.tolist()]


def state_of_leader(state: Any) -> Any:
    """The state that the leading process has read, on every process; others give None.

    Args:
        state: None, or dicts and lists that hold tensors of the CPU and plain values.
    """
    if count() == 1:
        return state
    told = [_without_content(state)]
    with _answered():
        distributed.broadcast_object_list(told, 0)
        replica = state if leads() else _empty(told[0])
        for _, tensor in named_tensors(replica):
            distributed.broadcast(tensor, 0)
    return replica


def _without_content(state: Any) -> Any:
    return _mapped(state, lambda tensor: tensor.to("meta"))


def _empty(state: Any) -> Any:
    return _mapped(state, lambda tensor: torch.empty_like(tensor, device="cpu"))


def _mapped(state: Any, change: Any) -> Any:
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        return {key: _mapped(value, change) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_mapped(value, change) for value in state)
    return state


def named_tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in dicts, lists and tuples, named by the way to them."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict | list | tuple):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in pairs:
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))


def must_be_equal(state: Any) -> None:
    """Compares the tensors of a state over processes, by their hashes.

    Raises:
        Divergence: a process has other ones than the first.
    """
    if count() == 1:
        return
    names, tensors = zip(*named_tensors(state), strict=True)
    digests = b"".join(_digest(tensor) for tensor in tensors)
    mine = torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(1, len(names), -1)
    of_all = gathered(mine)
    differs = (of_all != of_all[:1]).any(2)  # (processes, tensors)
    for process, tensor in differs.nonzero().tolist():
        raise Divergence(
            f"process {process} of {count()} has another {names[tensor]} than process 0 "
            f"({int(differs.sum())} tensors differ in all). Replicas are equal bit for bit "
            "where machines and libraries are: nothing was stored. Start the same command "
            "again, which goes on from the last saved state; if it comes again, look at that "
            "process' memory and device"
        )


def _digest(tensor: Tensor) -> bytes:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(content.data).digest()[:DIGEST_BYTES]
