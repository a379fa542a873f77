"""What is wrong with a study."""

from barlow_atlas.errors import AtlasError


class StudyError(AtlasError):
    """A study file that cannot be used; the message names file, key, value and what is allowed."""
