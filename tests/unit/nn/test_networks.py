"""How views pass through a network: statistics of each view, precision, compilation."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from barlow_atlas.data.batches import Resident
from barlow_atlas.nn.networks import BasicBlock, Network, build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import initial_state, train

CPU = torch.device("cpu")


@pytest.fixture
def views() -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(0)
    return tuple(3 * k + torch.randn(32, 3, 8, 8, generator=draws) for k in range(3))


def network_of(run: Run) -> Network:
    return build(run.architecture, generator(run.seed, "weights"))


def gradients(network: Network, embeddings: tuple[Tensor, ...]) -> list[Tensor]:
    loss = sum((k + 1) * z.square().mean() for k, z in enumerate(embeddings))
    loss.backward()  # type: ignore[union-attr]
    return [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_block_is_torchvisions(stride: int, views: tuple[Tensor, ...]) -> None:
    from torchvision.models.resnet import BasicBlock as Theirs

    shortcut = nn.Conv2d(3, 3, 1, stride) if stride > 1 else None
    torch.manual_seed(0)
    ours = BasicBlock(3, 3, stride, shortcut)
    torch.manual_seed(0)
    theirs = Theirs(3, 3, stride, copy.deepcopy(shortcut))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    expected, found = theirs(views[0]), ours(views[0])
    for result in (expected, found):
        result.square().sum().backward()
    assert torch.equal(found, expected)
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=0)


@pytest.mark.parametrize("step", ["pretrain", "probe"])
def test_a_step_starts_without_what_takes_as_long_to_import_as_torch(step: str) -> None:
    code = f"import sys, barlow_atlas.steps.{step}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torchvision", "torch._dynamo", "pandas", "sklearn"} & set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_one_batch_of_all_views_is_as_one_pass_for_each(
    backbone: str, tiny_run: Run, views: tuple[Tensor, ...]
) -> None:
    settings = {"name": backbone, "width": 8 if backbone == "small" else None, "stem": "3x3"}
    run = tiny_run.model_copy(update={"backbone": tiny_run.backbone.model_copy(update=settings)})
    one_by_one = network_of(run).double()
    at_once = copy.deepcopy(one_by_one)
    images = [view.double() for view in views]
    expected = tuple(one_by_one(image) for image in images)
    found = at_once.in_one_batch(*images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        gradients(at_once, found), gradients(one_by_one, expected), rtol=1e-7, atol=1e-9
    )
    # Running statistics have seen the views in their order, and nothing of it stays behind.
    for name, buffer in one_by_one.named_buffers():
        torch.testing.assert_close(at_once.get_buffer(name), buffer, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(at_once(images[0]), one_by_one(images[0]), rtol=1e-9, atol=1e-9)


def test_statistics_of_all_views_at_once_would_be_others(
    tiny_run: Run, views: tuple[Tensor, ...]
) -> None:
    network = network_of(tiny_run)
    mixed_up = network(torch.cat(views)).chunk(len(views))
    assert not torch.allclose(mixed_up[0], network.in_one_batch(*views)[0], atol=1e-3)


def test_bfloat16_gives_float32_embeddings_close_to_those_of_float32(
    tiny_run: Run, views: tuple[Tensor, ...]
) -> None:
    plain = network_of(tiny_run)
    half = network_of(tiny_run.model_copy(update={"precision": "bfloat16"}))
    seen: list[torch.dtype] = []
    half.backbone[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    expected, found = plain(views[0]), half(views[0])
    assert seen == [torch.bfloat16]
    assert found.dtype == torch.float32
    # bfloat16 keeps 8 bits: some tenths of a percent in each of ten layers.
    error = (found - expected).norm() / expected.norm()
    assert 1e-5 < error < 0.05
    assert all(p.dtype == torch.float32 for p in half.parameters())
    assert all(b.dtype != torch.bfloat16 for b in half.buffers())


def losses(run: Run, images: Tensor) -> list[float]:
    state = initial_state(run, CPU)
    return [p.terms["loss"].item() for p in train(run, state, Resident(images), until=2)]


@pytest.fixture
def images() -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (128, 3, 8, 8), dtype=torch.uint8, generator=draws)


def test_training_in_bfloat16_goes_the_same_way(tiny_run: Run, images: Tensor) -> None:
    exact = losses(tiny_run, images)
    found = losses(tiny_run.model_copy(update={"precision": "bfloat16"}), images)
    assert found != exact
    assert found == pytest.approx(exact, rel=0.05)


NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: g++"
)


@pytest.mark.slow
@NEEDS_COMPILER
def test_compiled_passes_are_the_plain_ones(tiny_run: Run, views: tuple[Tensor, ...]) -> None:
    plain, compiled = network_of(tiny_run), network_of(tiny_run)
    compiled.compile_parts()
    expected, found = plain.in_one_batch(*views), compiled.in_one_batch(*views)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        gradients(compiled, found), gradients(plain, expected), rtol=1e-2, atol=1e-3
    )
    # Weights are stored under the names that they have without compilation.
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
@NEEDS_COMPILER
def test_a_compiled_run_trains_as_a_plain_one(tiny_run: Run, images: Tensor) -> None:
    compiled = tiny_run.model_copy(update={"compiled": True})
    assert losses(compiled, images) == pytest.approx(losses(tiny_run, images), rel=1e-3)
