"""What milestones are asked: the probes, one file each, and the names by which a study asks them.

A probe is a frozen set of settings that can question a milestone (`base.Probe`). Planning a study
reads the settings and loads neither torch nor numpy for it, so a probe's file imports these for
type checking only, or inside its functions.

To add one: write its file, with one class whose `name` is the file's name, and add that name to
`FILES`.
"""

from barlow_atlas.probes.base import Probe
from barlow_atlas.settings.registry import by_name

FILES = ("knn", "linear", "online_linear", "transfer", "fine_tuned", "svm", "detection")


def _name(probe: type[Probe]) -> str | None:
    return getattr(probe, "name", None)


PROBES = by_name(__name__, FILES, Probe, _name)  # type: ignore[type-abstract]
