"""A step "on cuda" without a GPU: what is on the CPU is computed, what is on the device is not.

Tensors of the device are fake ones (shapes and types, no numbers). This project draws its random
numbers on the CPU, so what a step does next hardly ever depends on a number of the device; where it
does, the host would wait for it, and that is what is looked for.
"""

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import barlow_atlas.data.batches

CUDA = torch.device("cuda", 0)
PACKAGE = "/barlow_atlas/"

# Operations whose result, or the size of it, the host reads.
READ_BY_THE_HOST = {
    "_assert_async",
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
COPIES = {"_copy_from", "_to_copy", "copy_", "to"}
INDEXED = {"_index_put_impl_", "index", "index_put_"}
# Kernels that take no tensor.
FILLED = {"arange", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros"}
# Neither views in their schema nor kernels.
ROOM_OR_SHAPE = {"_unsafe_view", "empty_like", "new_empty", "new_empty_strided"}


class Rehearsal(TorchDispatchMode):
    """Notes of each operation on the device whether the host would wait for it.

    Attributes:
        waits: by what is waited for and the project's own line, how often.
        mixed: operations on tensors of both, which a GPU refuses.
        kernels: by operation, how many it starts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()
        # By address; the tensors are kept, so that no address is one of two.
        self.pinned: dict[int, Tensor] = {}

    def forget(self) -> None:
        for counter in (self.waits, self.mixed, self.kernels):
            counter.clear()

    def pin(self, tensor: Tensor) -> Tensor:
        self.pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def wait(self, what: str) -> None:
        self.waits[f"{what} at {_line()}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = tree_leaves((args, kwargs))
        tensors = [each for each in leaves if isinstance(each, Tensor)]
        # `to` in inference mode has the device among its positional arguments.
        target = next((each for each in leaves if isinstance(each, torch.device)), None)
        if kwargs.pop("pin_memory", None):
            return self.pin(func(*args, **kwargs))
        on_device = any(_is_on_device(each) for each in tensors)
        if not on_device and (target is None or target.type != "cuda"):
            return func(*args, **kwargs)
        space, name = func._schema.name.split("::")
        if space != "prim":
            self._note(name, func, tensors, args, kwargs, target, on_device)
        if name == "_local_scalar_dense":
            return _some_number(args[0].dtype)
        if name == "_fused_sgd_":  # torch has no fake form of it; it returns nothing
            return None
        if name in ("is_nonzero", "equal"):
            return True
        # FakeTensorMode takes a call without a fake argument for one of constants.
        args, kwargs = tree_map(self._as_fake, (args, kwargs))
        with self.fake:
            result = func(*args, **kwargs)
            return _in_layout_of_weights(*result) if name == "convolution_backward" else result

    def _note(
        self,
        name: str,
        func: Any,
        tensors: list[Tensor],
        args: Any,
        kwargs: Any,
        target: torch.device | None,
        on_device: bool,
    ) -> None:
        goes_to = args[0].device if name == "copy_" else target
        comes_from = args[1] if name == "copy_" else args[0] if args else None
        if name in COPIES and goes_to is not None and isinstance(comes_from, Tensor):
            if goes_to.type != comes_from.device.type:
                self._note_copy(goes_to, comes_from, _is_asynchronous(func, name, args, kwargs))
        elif on_device and not func.is_view:
            sizes = [tuple(t.shape) for t in tensors if t.device.type == "cpu" and t.dim()]
            if name in INDEXED and sizes:
                self.wait("indices from the host")
            elif sizes:
                self.mixed[f"{name} with {sizes} of the CPU at {_line()}"] += 1
        if on_device and name in READ_BY_THE_HOST:
            self.wait(name)
        if on_device and name in INDEXED and _has_mask(args[1]):
            self.wait("a mask")
        of_tensors = on_device and not func.is_view and name not in ROOM_OR_SHAPE
        if of_tensors or name in FILLED:
            self.kernels[name] += 1

    def _note_copy(self, goes_to: torch.device, source: Tensor, asynchronous: bool) -> None:
        if goes_to.type == "cpu":
            self.wait("a copy to the host")
        elif source.untyped_storage().data_ptr() not in self.pinned:
            self.wait("a copy from memory that is not pinned")
        elif not asynchronous:
            self.wait("a copy that is not asynchronous")

    def _as_fake(self, value: Any) -> Any:
        if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
            return self.fake.from_tensor(value.detach(), static_shapes=True)
        return value


def _in_layout_of_weights(
    images: Tensor | None, weights: Tensor, bias: Tensor | None
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients of a convolution as cuDNN lays them out (`cudnn_convolution_backward_weight` in
    torch's `ConvShared.cpp`): weights channels last, as they are here. torch's fake ones are not,
    and would be copied into that layout, one by one.
    """
    return images, weights.contiguous(memory_format=torch.channels_last), bias


def _is_on_device(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.device.type == "cuda"


def _is_asynchronous(func: Any, name: str, args: Any, kwargs: Any) -> bool:
    """Whether `non_blocking` is set, by name or by its place."""
    names = [argument.name for argument in func._schema.arguments]
    place = names.index("non_blocking") if "non_blocking" in names else len(args)
    return bool(kwargs.get("non_blocking") or (place < len(args) and args[place]))


def _has_mask(indices: Any) -> bool:
    masks = (torch.bool, torch.uint8)
    return any(isinstance(each, Tensor) and each.dtype in masks for each in indices)


def _some_number(dtype: torch.dtype) -> Any:
    return True if dtype is torch.bool else 1.0 if dtype.is_floating_point else 1


def _line() -> str:
    """The innermost line of the package; autograd's own work has none."""
    for frame in reversed(traceback.extract_stack()):
        if PACKAGE in frame.filename:
            return f"{frame.filename.split(PACKAGE)[-1]}:{frame.lineno}"
    return "a backward pass"


class _Stream:
    """One that is always done; nothing of the device runs."""

    def __init__(self, *device: Any) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    def record_event(self) -> object:
        return object()


class _AtOnce:
    """A pool of threads that works where it is asked: modes are of one thread."""

    def __init__(self, *settings: Any) -> None:
        pass

    def __enter__(self) -> "_AtOnce":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def submit(self, function: Any, *arguments: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(function(*arguments))
        return done


@contextlib.contextmanager
def rehearsal() -> Iterator[Rehearsal]:
    """Everything in the block that goes to CUDA is rehearsed."""
    notes = Rehearsal()
    swapped, filled = torch.utils.swap_tensors, torch.Tensor.new_tensor

    def swap(first: Tensor, second: Tensor) -> None:
        if first.device != second.device:  # else it is where it should be
            swapped(first, second)

    def new(self: Tensor, data: Any, **settings: Any) -> Tensor:
        if not isinstance(self, FakeTensor):
            return filled(self, data, **settings)
        return torch.tensor(data, dtype=self.dtype).to(self.device)

    with contextlib.ExitStack() as stack:
        for owner, name, stand_in in (
            (torch.utils, "swap_tensors", swap),
            (torch.Tensor, "new_tensor", new),
            (torch.Tensor, "pin_memory", lambda self, *device: notes.pin(self.clone())),
            (torch.Tensor, "record_stream", lambda self, stream: None),
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "current_device", lambda: 0),
            (torch.cuda, "current_stream", _Stream),
            (torch.cuda, "get_device_capability", lambda *device: (9, 0)),
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "is_bf16_supported", lambda *settings: True),
            (torch.cuda, "is_initialized", lambda: True),
            (torch.cuda, "mem_get_info", lambda *device: (140 << 30, 141 << 30)),
            (torch.cuda, "Stream", _Stream),
            (torch.cuda, "stream", lambda stream: contextlib.nullcontext()),
            (torch.cuda, "synchronize", lambda *device: notes.wait("torch.cuda.synchronize")),
            (torch.amp, "is_autocast_available", lambda kind: True),
            (barlow_atlas.data.batches, "ThreadPoolExecutor", _AtOnce),
        ):
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        stack.enter_context(notes)
        yield notes
