"""Where the bytes of every image lie: class folders, ImageNet's archives, or packed by others.

The archives are read where they are: a tar archive of uncompressed members is a file in which every
image has a place, the nested one of ImageNet's training images as well.
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from barlow_atlas.data.catalog import LABEL_LISTS, DataSet, Part
from barlow_atlas.data.entries import Entry
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.packed import packed_entries
from barlow_atlas.data.survey import (
    ARCHIVES,
    Survey,
    check_classes,
    holders_in,
    some,
    survey,
)

if TYPE_CHECKING:
    from barlow_atlas.data.objects import Objects

DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH = f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt"
META = f"{DEVKIT}/data/meta.mat"


@dataclass(frozen=True)
class Listing:
    """All images of a data set in the order in which they are stored.

    Attributes:
        turned: whether they are shown as their EXIF orientation says; ImageNet's are read as its
            authors' and the papers' readers read them, which do not look at it.
        objects: of each entry, where they are annotated.
        labelled: the names of files in each of `LABEL_LISTS` that is there. Where only some classes
            are taken, a list names images of others, too.
    """

    place: Path
    classes: tuple[str, ...]
    entries: dict[Part, list[Entry]]
    survey: Survey
    turned: bool
    source: str
    objects: Mapping[Part, Sequence[Objects]] = field(default_factory=dict)
    labelled: Mapping[str, frozenset[str]] = field(default_factory=dict)


def listing_of(data_set: DataSet, place: Path) -> Listing:
    """The images of a folder: `train/<class>/` and `val/<class>/`, ImageNet's archives, or packed.

    Class by class in the order of their names, in a class by the name of the file; packed ones as
    they come. Only classes that `data_set.class_names` lists are taken, if it lists any.

    Raises:
        DataError: something is missing, or cannot be read.
    """
    holders = holders_in(data_set.title, place)
    if holders is None:
        listed = _of_folders(data_set, place)
    elif ARCHIVES[0] in holders.states:
        listed = _of_archives(data_set, place, holders)
    else:
        listed = _of_packed(data_set, place, holders)
    listed = replace(listed, labelled=_label_lists(listed))
    chosen = data_set.class_names
    if not chosen:
        return listed
    unknown = sorted(set(chosen) - set(listed.classes))
    if unknown:
        raise DataError(
            f"{data_set.title}: data.classes names {some(unknown)}, of which there are no images "
            f"in {place}. Its classes are {some(list(listed.classes))}."
        )
    numbers = {listed.classes.index(name): k for k, name in enumerate(sorted(chosen))}
    entries: dict[Part, list[Entry]] = {
        part: [each._replace(label=numbers[each.label]) for each in those if each.label in numbers]
        for part, those in listed.entries.items()
    }
    return replace(listed, classes=tuple(sorted(chosen)), entries=entries)


def _of_folders(data_set: DataSet, place: Path) -> Listing:
    folders = survey(data_set.title, place)
    classes = tuple(sorted(folders.images["train"]))
    entries: dict[Part, list[Entry]] = {
        part: [
            Entry(name, name, 0, folders.states[name].size, label)
            for label, key in enumerate(classes)
            for name in sorted(by_class[key])
        ]
        for part, by_class in folders.images.items()
    }
    return Listing(place, classes, entries, folders, turned=True, source=data_set.source)


def _of_archives(data_set: DataSet, place: Path, archives: Survey) -> Listing:
    train, val, devkit = archives.states
    by_class = {"train": _nested(place / train), "test": _annotated(place / val, place / devkit)}
    check_classes(
        data_set.title,
        place,
        *(
            {key: [e.name for e in those] for key, those in part.items()}
            for part in by_class.values()
        ),
    )
    classes = tuple(sorted(by_class["train"]))
    entries: dict[Part, list[Entry]] = {
        part: [  # type: ignore[misc]
            each._replace(label=label)
            for label, key in enumerate(classes)
            for each in sorted(those[key])
        ]
        for part, those in by_class.items()
    }
    return Listing(
        place,
        classes,
        entries,
        archives,
        turned=False,
        source=f"ImageNet's archives {', '.join(archives.states)}, read where they are",
    )


def _of_packed(data_set: DataSet, place: Path, packed: Survey) -> Listing:
    classes, entries = packed_entries(data_set.title, place, packed)
    source = f"{len(packed.states):,} files of packed images, such as {min(packed.states)}"
    return Listing(place, classes, entries, packed, turned=True, source=source)


def _nested(archive: Path) -> dict[str, list[Entry]]:
    """The images of an archive of archives, one for each class and named as it."""
    by_class: dict[str, list[Entry]] = {}
    with _opened(archive) as outer, archive.open("rb") as file:
        for member in outer:
            if member.isfile() and member.name.endswith(".tar"):
                file.seek(member.offset_data)
                wnid = Path(member.name).stem
                inside = f"{archive.name}/{member.name}"
                by_class[wnid] = list(_members(file, inside, archive.name))
    if not by_class:
        raise DataError(f"{archive} holds no archives of classes: replace it by the official one.")
    return by_class


def _annotated(archive: Path, devkit: Path) -> dict[str, list[Entry]]:
    """The images of the flat validation archive by class, which the development kit tells."""
    with archive.open("rb") as file:
        images = sorted(_members(file, archive.name, archive.name))
    wnids = _truth(devkit)
    if len(wnids) != len(images):
        raise DataError(
            f"{archive} holds {len(images):,} images, and {TRUTH} in {devkit} tells the classes "
            f"of {len(wnids):,}. Replace both by the official archives."
        )
    by_class: dict[str, list[Entry]] = {}
    for wnid, image in zip(wnids, images, strict=True):
        by_class.setdefault(wnid, []).append(image)
    return by_class


def _members(file: IO[bytes], inside: str, holder: str) -> Iterator[Entry]:
    """The images of the tar archive that begins where `file` stands."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    name = f"{inside}/{Path(member.name).name}"
                    yield Entry(name, holder, member.offset_data, member.size, -1)
    except tarfile.TarError as error:
        raise DataError(
            f"{inside} is no whole tar archive: {error}. Replace it by the official one."
        ) from error


def _opened(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, "r:")
    except tarfile.TarError as error:
        raise DataError(
            f"{archive} is no whole tar archive: {error}. Replace it by the official one."
        ) from error


def _truth(devkit: Path) -> list[str]:
    """The class (WordNet id) of each validation image, in the order of their names."""
    from scipy.io import loadmat

    try:
        with tarfile.open(devkit) as tar:
            lines, meta = (tar.extractfile(name) for name in (TRUTH, META))
            if lines is None or meta is None:
                raise ValueError("they are no files")
            numbers = [int(line) for line in lines.read().split()]
            # The stubs know paths only.
            read = loadmat(io.BytesIO(meta.read()), squeeze_me=True)  # type: ignore[arg-type]
            synsets = read["synsets"]
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise DataError(
            f"{devkit} cannot be read: {error}. Expected {TRUTH} and {META} in it: replace it by "
            "the official archive."
        ) from error
    wnid_of = {int(number): str(wnid) for number, wnid in synsets[["ILSVRC2012_ID", "WNID"]]}
    unknown = sorted(set(numbers) - set(wnid_of))
    if unknown:
        raise DataError(f"{devkit}: {TRUTH} names the classes {unknown[:5]}, {META} does not.")
    return [wnid_of[number] for number in numbers]


def _label_lists(listing: Listing) -> dict[str, frozenset[str]]:
    """The names of files in each of `LABEL_LISTS` that lies beside the images.

    Raises:
        DataError: it names an image that is not there.
    """
    lists = {}
    for name in LABEL_LISTS:
        path = listing.place / f"{name}.txt"
        if not path.is_file():
            continue
        named = path.read_text().split()
        called = Counter(each.base_name for each in listing.entries["train"])
        wrong = sorted(each for each, n in Counter(named).items() if (n, called[each]) != (1, 1))
        if wrong:
            raise DataError(
                f"{path} names {some(wrong)}, where each line should name one training image, and "
                "each image once. Replace it by the published list, or remove it."
            )
        lists[name] = frozenset(named)
    return lists
