"""What is probed: a chain of checkpoints, and how images reach its networks. Loads no torch."""

from barlow_atlas.data.choice import Data, Protocol
from barlow_atlas.settings.augmentation import Recipe
from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.settings.training import Backbone


class Subject(Frozen):
    """A chain of checkpoints as the probes see it, wherever its weights come from."""

    data: Data
    image_size: int
    recipe: Recipe
    backbone: Backbone
    method: str
    embedding_dim: int | None
    protocol: Protocol
    threads: int
    seed: int
