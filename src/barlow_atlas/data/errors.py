"""The one exception of this package."""

from barlow_atlas.errors import AtlasError


class DataError(AtlasError):
    """A data set is missing, damaged or not what its name says.

    The message states what was expected, what was found, where it was looked for and what to do.
    """
