"""Maps of features, which a backbone gives before its last pooling, for VISSL's classifiers."""

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from barlow_atlas.errors import AtlasError
from barlow_atlas.nn.detection import stages


class Windows(nn.Module):
    """Means over the windows that are one pixel less high and wide than maps (n, c, h, w).

    Those of 7 x 7 pixels become 2 x 2, as by VISSL's average over 6 x 6 for the last stage.
    """

    def forward(self, maps: Tensor) -> Tensor:
        window = [max(1, side - 1) for side in maps.shape[2:]]
        return avg_pool2d(maps, window, stride=1)


def last_maps(backbone: nn.Module) -> nn.Module:
    """From images to the `Windows` of a backbone's last stage; its modules stay the backbone's.

    Raises:
        AtlasError: the backbone has no stages as a ResNet has them.
    """
    try:
        trunk, last = stages(backbone)
    except AttributeError as error:
        raise AtlasError(
            f"the form vissl looks at a ResNet's last stage, and this backbone has none ({error}): "
            "ask the form standard"
        ) from error
    return nn.Sequential(trunk, last, Windows())
