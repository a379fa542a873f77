"""The methods, one file each, and the names by which a study asks for them.

A method is a frozen set of settings that can compute its loss terms (`base.Method`). Planning a
study reads the settings without loading torch, so a method's file imports torch for type checking
only, or inside its functions.

To add one: write its file, add its line to `METHODS`.
"""

from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.base import Method
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins

METHODS: dict[str, type[Method]] = {
    "barlow_twins": BarlowTwins,
    "mixed_barlow_twins": MixedBarlowTwins,
}
