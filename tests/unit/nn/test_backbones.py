"""Backbones by name: torchvision's ResNets and timm's models, their stems, features and norms."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from barlow_atlas.errors import AtlasError
from barlow_atlas.nn.networks import build, build_backbone
from barlow_atlas.nn.randomness import generator
from barlow_atlas.settings.training import RESNETS, Architecture, Backbone, Projector
from barlow_atlas.study.models import Run

WIDE = {"resnext101_64x4d": 2048, "resnet18": 512, "resnet34": 512}
VIT = {"img_size": 16, "patch_size": 4, "depth": 1}
# A model of each kind of norm: per channel, with what follows it in one module, of layers.
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "timm/resnet10t": ("own", {}, 512),
    "timm/mobilenetv3_small_050": ("own", {}, 1024),
    "timm/vit_tiny_patch16_224": ("own", VIT, 192),
}


def backbone(name: str, **others: Any) -> Backbone:
    return Backbone.model_validate({"name": name, "stem": "3x3", **others})


def timms(name: str) -> Backbone:
    stem, options, _ = MODELS[name]
    return backbone(name, stem=stem, options=options or None)


def images(n: int = 4, size: int = 16) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RESNETS)
def test_torchvisions_resnets_by_name(name: str) -> None:
    with torch.device("meta"):
        network, features = build_backbone(backbone(name))
        seen = network(torch.empty(2, 3, 32, 32))
    assert seen.shape == (2, features) == (2, WIDE.get(name, 2048))
    assert (network.conv1.kernel_size, network.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(network.maxpool, nn.Identity)


@pytest.mark.parametrize("name", MODELS)
def test_timms_models_by_name(name: str) -> None:
    chosen = timms(name)
    size = 16 if chosen.options else 32
    again = [
        build(Architecture(chosen, Projector(hidden=()), 8, "float32"), generator(1, "weights"))
        for _ in range(2)
    ]
    assert all(map(torch.equal, *(each.state_dict().values() for each in again)))
    network = again[0]
    assert network(images(size=size)).shape == (4, 8)
    assert network.backbone(images(size=size)).shape == (4, MODELS[name][2])


@pytest.mark.parametrize("name", MODELS)
def test_one_batch_of_views_has_statistics_of_each(name: str) -> None:
    one_by_one = build(
        Architecture(timms(name), Projector(hidden=()), 8, "float32"), generator(1, "weights")
    ).double()
    at_once = copy.deepcopy(one_by_one)
    size = 16 if timms(name).options else 32
    views = [k + images(size=size).double() for k in range(2)]
    expected = tuple(one_by_one(view) for view in views)
    torch.testing.assert_close(at_once.in_one_batch(*views), expected, rtol=1e-9, atol=1e-9)
    for key, buffer in one_by_one.named_buffers():
        torch.testing.assert_close(at_once.get_buffer(key), buffer, rtol=1e-9, atol=1e-9)


def test_nothing_is_drawn_in_a_pass() -> None:
    options = VIT | {"drop_path_rate": 0.5, "proj_drop_rate": 0.5, "attn_drop_rate": 0.5}
    network, _ = build_backbone(
        backbone("timm/vit_tiny_patch16_224", stem="own", options=options | {"depth": 2})
    )
    network.train()
    assert torch.equal(network(images()), network(images()))


def test_a_resnet_of_timm_gets_the_stem_for_small_images() -> None:
    with torch.device("meta"):
        network, features = build_backbone(backbone("timm/resnet18"))
        assert network(torch.empty(2, 3, 32, 32)).shape == (2, features) == (2, 512)
    assert network.conv1.stride == (1, 1)
    with pytest.raises(AtlasError, match=r"does not begin with a 7x7 convolution.*`stem: own`"):
        build_backbone(backbone("timm/mobilenetv3_small_050"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "resnet19"}, "unknown backbone 'resnet19'. Did you mean 'resnet1"),
        ({"name": "timm/"}, "unknown backbone"),
        ({"name": "resnet18", "stem": "own"}, "belong to timm's models"),
        ({"name": "resnet18", "options": {"img_size": 32}}, "belong to timm's models"),
        ({"name": "timm/resnet18", "stem": "7x7-maxpool"}, "give `stem: own`"),
        ({"name": "timm/resnet18", "zero_init_residual": True}, "no `zero_init_residual`"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        backbone(**given)


def test_a_model_that_timm_has_not_is_refused_with_the_nearest() -> None:
    with pytest.raises(AtlasError, match=r"unknown model of timm 'resnet18x'.*Did you mean"):
        build_backbone(backbone("timm/resnet18x", stem="own"))
    with pytest.raises(
        AtlasError, match=r"cannot be made with backbone\.options = \{'colour': 1\}"
    ):
        build_backbone(backbone("timm/resnet18", stem="own", options={"colour": 1}))


def test_without_timm_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(AtlasError, match=r"needs timm.*pip install 'barlow-atlas\[timm\]'"):
        build_backbone(backbone("timm/resnet18", stem="own"))


def test_a_run_without_options_reads_as_before(tiny_run: Run) -> None:
    told = tiny_run.model_dump(mode="json")["backbone"]
    assert set(told) == {"name", "stem", "width", "zero_init_residual"}
