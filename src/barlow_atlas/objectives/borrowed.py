"""The one place that imports lightly, whose losses equal the authors' values (docs/methods.md)."""

from lightly.loss import NegativeCosineSimilarity, SwaVLoss, Whitening2d
from lightly.loss.swav_loss import sinkhorn
from lightly.loss.vicreg_loss import invariance_loss, variance_loss
from lightly.loss.wmse_loss import norm_mse_loss
from lightly.models.utils import update_momentum

__all__ = [
    "NegativeCosineSimilarity",
    "SwaVLoss",
    "Whitening2d",
    "invariance_loss",
    "norm_mse_loss",
    "sinkhorn",
    "update_momentum",
    "variance_loss",
]
