"""Official files -> arrays."""

import os
from collections.abc import Callable

from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.sources import parse_mirrors
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import DATA, RAW_DATA
from barlow_atlas.study.sizes import check_sizes


def prepare_data(name: str, study: Study, data_set: str | None, say: Callable[[str], None]) -> None:
    """Brings a study's data set into results/data/; checksums are verified.

    Args:
        name: of the study.
        data_set: one of the study's; None for its own images.

    Raises:
        StudyError: the study has no such data set, or asks more of it than its images can give.
        DataError: its files cannot be had, or are not what they should be.
    """
    known = {data_set.name: data_set for data_set in study.data_sets()}
    asked = data_set or study.data.name
    if asked not in known:
        raise StudyError(f"{name} has no data set {asked!r}; it has {', '.join(known)}")
    mirrors = (*parse_mirrors(os.environ.get("BARLOW_ATLAS_DATA", "")), *study.data_mirrors)
    prepare(known[asked], DATA / asked, RAW_DATA, mirrors, say)
    check_sizes(name, study)
