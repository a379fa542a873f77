"""Backbones of timm (github.com/huggingface/pytorch-image-models), by its names.

timm is an extra of this package, imported where one of its models is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from barlow_atlas.errors import AtlasError, not_allowed
from barlow_atlas.nn.norms import PerView, PerViewBatchNorm1d, PerViewBatchNorm2d

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor


class BackboneError(AtlasError):
    """A backbone that cannot be built here; the message says why and what to do."""


def build(model: str, options: Mapping[str, Any]) -> tuple[nn.Module, int]:
    """A model without its classifier, untrained, and its number of features f.

    Its batch norms take statistics of each view. Dropout and stochastic depth are off, as they
    draw from torch's own generator, which a step's place in training does not decide.

    Args:
        model: timm's name, without weights' tag.
        options: further arguments of the model, such as `img_size`.

    Raises:
        BackboneError: no timm, no such model, arguments that it does not take, or a batch norm
            that cannot be told from which view its rows come.
    """
    timm = _timm(model)
    if not timm.is_model(model):
        known = timm.list_models()
        raise BackboneError(str(not_allowed("model of timm", model, known)).partition(" Known:")[0])
    try:
        network = timm.create_model(model, pretrained=False, num_classes=0, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise BackboneError(
            f"timm's {model} cannot be made with backbone.options = {dict(options)}: {error}"
        ) from error
    for name, module in network.named_modules():
        _leave_undisturbed(module)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = _per_view(f"timm's {model}, {name}", type(module))
    return network, getattr(network, "head_hidden_size", network.num_features)


def _timm(model: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise BackboneError(
            f"the backbone timm/{model} needs timm, which is not installed: "
            "pip install 'barlow-atlas[timm]'"
        ) from error
    return timm


def _leave_undisturbed(module: nn.Module) -> None:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        module.p = 0.0
    if hasattr(module, "drop_prob"):
        module.drop_prob = 0.0  # type: ignore[assignment]


def _per_view(where: str, kind: type[nn.Module]) -> type[PerView]:
    from timm.layers.norm_act import BatchNormAct2d

    class PerViewBatchNormAct2d(PerView, BatchNormAct2d):
        """Batch norm and what follows it in one module, of each view."""

        def _over_processes(self, images: Tensor) -> Tensor:
            activated: Tensor = self.act(self.drop(super()._over_processes(images)))
            return activated

    known: dict[type[nn.Module], type[PerView]] = {
        nn.BatchNorm1d: PerViewBatchNorm1d,
        nn.BatchNorm2d: PerViewBatchNorm2d,
        BatchNormAct2d: PerViewBatchNormAct2d,
    }
    if kind not in known:
        raise BackboneError(
            f"{where}: its {kind.__name__} takes statistics of all views at once, where each view "
            "has its own here: choose a model with another norm"
        )
    return known[kind]
