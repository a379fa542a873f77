"""Parameter counts, shapes and forward passes of the papers' networks."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from barlow_atlas.nn.networks import Network, build_backbone, projector_layers
from barlow_atlas.settings.training import Backbone, Projector
from barlow_atlas.verify import inputs
from barlow_atlas.verify.values import Mismatch

STEMS = {
    "cifar10": "3x3",
    "cifar100": "3x3",
    "tiny_imagenet": "3x3-maxpool",
    "tiny_in": "3x3-maxpool",  # the baselines' name of it
    "stl10": "3x3-maxpool",
    "imagenet": "7x7-maxpool",
}
MIX_PROJECTOR = Projector(hidden=(512,))
BASELINE_HEAD = Projector(hidden=(1024,), hidden_bias=True)


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    match case["kind"]:
        case "mix":
            return _mix(case["params"])
        case "mix_forward":
            return _mix_forward(case)
        case "bt_official":
            return _barlow_twins(case["params"])
        case "ssl_sota":
            return _baseline(case["params"])
        case unknown:
            raise Mismatch(
                f"unknown kind {unknown!r}; known: mix, mix_forward, bt_official, ssl_sota"
            )


def mix_network(arch: str, dataset: str, embedding_dim: int) -> Network:
    """Mixed Barlow Twins' network for a small data set."""
    backbone, features = _backbone(arch, dataset)
    layers = projector_layers(features, MIX_PROJECTOR, embedding_dim)
    return Network(backbone, nn.Sequential(*layers))


def with_ruled_parameters(network: Network) -> Network:
    """The network in float64 with the parameters that recipe images sets by a rule."""
    network = network.double()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            count = layer.weight.numel()
            scale = (2 / (count // len(layer.weight))) ** 0.5
            weight = np.random.default_rng(count).standard_normal(tuple(layer.weight.shape))
            layer.weight.data = inputs.constant(weight * scale)
            if layer.bias is not None:
                count = layer.bias.numel()
                bias = 0.1 * np.random.default_rng(count).standard_normal(count)
                layer.bias.data = inputs.constant(bias)
    return network


def normalised_outputs(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and embeddings of a forward pass, each row scaled to length 1."""
    features = network.backbone(images)
    return normalize(features, dim=1), normalize(network.projector(features), dim=1)


def counts(*modules: nn.Module) -> dict[str, int]:
    """How many parameters there are, and of which kind."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    weights = [parameter.numel() for parameter in parameters if parameter.ndim >= 2]
    one_d = [parameter.numel() for parameter in parameters if parameter.ndim < 2]
    layers = [layer for module in modules for layer in module.modules()]
    return {
        "parameters": sum(weights) + sum(one_d),
        "parameter_tensors": len(parameters),
        "weights_ndim_ge_2": sum(weights),
        "weight_tensors": len(weights),
        "one_d": sum(one_d),
        "one_d_tensors": len(one_d),
        "batchnorm_layers": sum(isinstance(x, nn.modules.batchnorm._BatchNorm) for x in layers),
    }


def _backbone(arch: str, dataset: str, **settings: Any) -> tuple[nn.Module, int]:
    if dataset not in STEMS:
        raise Mismatch(f"unknown data set {dataset!r}; known: {', '.join(STEMS)}")
    chosen = {"name": arch, "stem": STEMS[dataset], **settings}
    return build_backbone(Backbone.model_validate(chosen))


@torch.no_grad()
def _mix(params: dict[str, Any]) -> dict[str, Any]:
    with torch.device("meta"):  # shapes without numbers
        network = mix_network(params["arch"], params["dataset"], params["embedding_dim"])
        maps = torch.empty(2, *params["input"])
    shapes = []
    for layer in network.backbone.children():
        maps = layer(maps.flatten(1) if isinstance(layer, nn.Linear) else maps)
        if maps.ndim == 4 and not isinstance(layer, nn.Identity):
            shapes.append([_kind(layer), *maps.shape[1:]])
    features = maps.flatten(1)
    return {
        "encoder": counts(network.backbone),
        "projector": counts(network.projector),
        "total": counts(network),
        "stage_shapes": shapes,
        "feature_shape": list(features.shape[1:]),
        "embedding_shape": list(network.projector(features).shape[1:]),
    }


def _kind(layer: nn.Module) -> str:
    """The name of PyTorch's class that a layer is of, or is derived from."""
    classes = type(layer).__mro__
    return next(each.__name__ for each in classes if each.__module__.startswith("torch."))


@torch.no_grad()
def _mix_forward(case: dict[str, Any]) -> dict[str, Any]:
    params, images = case["params"], inputs.constant(inputs.images(case))
    network = mix_network(params["arch"], params["dataset"], params["embedding_dim"])
    network = with_ruled_parameters(network)
    modes = {"train_mode": network.train, "eval_mode_after_one_train_pass": network.eval}
    mode_outputs = {}
    for mode, enter in modes.items():
        enter()
        feature, embedding = normalised_outputs(network, images)
        mode_outputs[mode] = {"feature": feature, "embedding": embedding}
    return mode_outputs


def _barlow_twins(params: dict[str, Any]) -> dict[str, Any]:
    *hidden, embedding_dim = (int(width) for width in params["projector"].split("-"))
    backbone, features = _backbone(params["arch"], "imagenet", zero_init_residual=True)
    settings = Projector(hidden=tuple(hidden), output_bias=False)
    # The reference keeps the loss's batch norm as a layer of the network behind the projector.
    with_loss = settings.model_copy(update={"output_norm": "plain"})
    with torch.device("meta"):
        projector, whole = (
            nn.Sequential(*projector_layers(features, each, embedding_dim))
            for each in (settings, with_loss)
        )
    zeros = [
        layer
        for layer in backbone.modules()
        if isinstance(layer, nn.BatchNorm2d) and not layer.weight.any()
    ]
    return {
        "backbone": counts(backbone),
        "projector": counts(projector),
        "total": counts(backbone, whole),
        "feature_dim": features,
        "zero_initialised_residual_bn_weights": len(zeros),
    }


def _baseline(params: dict[str, Any]) -> dict[str, Any]:
    with torch.device("meta"):
        encoder, features = _backbone(params["arch"], params["dataset"])
        head = nn.Sequential(*projector_layers(features, BASELINE_HEAD, params["emb"]))
        predictor = nn.Sequential(*projector_layers(params["emb"], BASELINE_HEAD, params["emb"]))
    sizes = {"encoder": counts(encoder), "head": counts(head), "feature_dim": features}
    return sizes | ({"predictor": counts(predictor)} if params["method"] == "byol" else {})
