"""Class folders as people have them: which images belong to which class, and what does not belong.

Loads no numpy, so that planning can look too.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from barlow_atlas.data.catalog import DataSet, Part
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.tree import State, Tree, read_tree, refuse, shown
from barlow_atlas.settings.frozen import Frozen

SOURCES = "sources.json"
PARTS = ("train", "val", "test")
TEST_PARTS = ("val", "test")
ANNOTATIONS = "val/val_annotations.txt"
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".tif", ".tiff", ".webp", ".gif"),
)
_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|P[1-6]\s|BM....\0\0\0\0",
    re.DOTALL,
)
"""Of JPEG, PNG, GIF, WebP, TIFF, PNM and BMP files."""
_BEGINNING = 16
ARCHIVES = (
    "ILSVRC2012_img_train.tar",
    "ILSVRC2012_img_val.tar",
    "ILSVRC2012_devkit_t12.tar.gz",
)
"""ImageNet as its authors publish it; the last tells the classes of the validation images."""

WEBDATASET, TFRECORDS, TABLES = "WebDataset shards", "TFDS's records", "Arrow or Parquet tables"
PACKED = {
    WEBDATASET: re.compile(r"\.tar$"),
    TFRECORDS: re.compile(r"\.tfrecord(-\d+-of-\d+)?$"),
    TABLES: re.compile(r"\.(arrow|parquet)$"),
}
"""Kinds of packed images, and how the names of their files end."""

ByClass = dict[str, list[str]]


class Sources(Frozen):
    """What a prepared folder was made of, in `sources.json` beside its manifest.

    It is no part of the manifest, whose hash every run carries: another time of a file, or a text
    file more, changes no image and must train nothing again.
    """

    folder: str
    images: int
    size: int
    """Bytes of the images' files."""
    newest: str
    """When the last of the images' files was changed, UTC."""
    digest: str
    """sha256 of the names, sizes and times of the images' files."""
    skipped: dict[str, int]
    """How often something beside the images was left out, by reason."""
    duplicates: int
    """Test images whose pixels, as stored, are those of a training image."""


@dataclass(frozen=True)
class Survey:
    """The images of a folder by part and class, as names below `root`, and what was left out."""

    root: Path
    images: dict[Part, ByClass]
    states: dict[str, State]
    skipped: Counter[str]

    def sources(self, duplicates: int) -> Sources:
        """What `sources.json` says of these images."""
        newest = max(state.time for state in self.states.values()) / 1e9
        return Sources(
            folder=str(self.root),
            images=len(self.states),
            size=sum(state.size for state in self.states.values()),
            newest=datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds"),
            digest=self.digest,
            skipped=dict(sorted(self.skipped.items())),
            duplicates=duplicates,
        )

    @property
    def digest(self) -> str:
        """sha256 of the names, sizes and times of the images' files."""
        told = hashlib.sha256()
        for name in sorted(self.states):  # no pairs: there may be millions
            size, time = self.states[name]
            told.update(os.fsencode(f"{name}\0{size}\0{time}\n"))
        return told.hexdigest()


def survey(title: str, place: Path) -> Survey:
    """The images in `train/<class>/` and `val/<class>/` or `test/<class>/`, at any depth.

    A file is an image if its name ends or its content begins like one. Names of classes are
    compared in Unicode's composed form, which all systems can make of their own.

    Raises:
        DataError: there is no such folder, or something that should be there is not: all that was
            found is listed.
    """
    if not place.is_dir():
        raise DataError(
            f"{title}: expected a folder with train/<class>/ and val/<class>/ (or test/<class>/) "
            f"at {place}, but there is no such folder. Correct `path` in the study, or put the "
            "images there."
        )
    tree = read_tree(place, PARTS)
    skipped = tree.skipped.copy()
    images = [name for name in sorted(tree.files) if _is_image(tree, name, skipped)]
    faults = [*tree.faults, *_unreadable(tree, images)]
    refuse(
        f"{title}: not all that lies in {place} can be read:",
        faults,
        "Mount, fetch or repair what is missing, remove links that lead nowhere or back, and give "
        "yourself the right to read (chmod u+rX). Then start the same command again.",
    )
    by_part = _by_part(title, place, tree, images, skipped)
    left_out = f" Left out: {skipped_told(skipped)}." if skipped else ""
    refuse(
        f"{title}: classes in {place} without images, or whose names cannot be stored:",
        [fault for part in by_part for fault in _class_faults(part, by_part[part])],
        f"Bring the images there, or remove or rename the folder in all parts.{left_out}",
    )
    composed = {part: _composed(by_class) for part, by_class in by_part.items()}
    check_classes(title, place, composed["train"], composed["test"])
    taken = [name for part in composed.values() for names in part.values() for name in names]
    return Survey(place, composed, {name: tree.files[name] for name in taken}, skipped)


def holders_in(title: str, place: Path) -> Survey | None:
    """The files of a folder that hold many images each, if it has such; none is opened.

    They are ImageNet's archives, or what others packed (`PACKED`). A folder with `train/<class>/`
    has class folders, whatever else lies there.

    Raises:
        DataError: only some of ImageNet's archives are there, or packed files of several kinds or
            of other parts than two.
    """
    there = [name for name in ARCHIVES if (place / name).is_file()]
    missing = sorted(set(ARCHIVES) - set(there))
    if there and missing:
        raise DataError(
            f"{place} holds {', '.join(there)}, but not {', '.join(missing)}: bring the official "
            "files there, or put class folders in another place."
        )
    if there:
        return Survey(place, {}, {name: _state(place / name) for name in ARCHIVES}, Counter())
    _, folders, _ = next(os.walk(place / "train"), ("", [], []))
    return None if any(not name.startswith(".") for name in folders) else _packed_in(title, place)


def _packed_in(title: str, place: Path) -> Survey | None:
    tree = read_tree(place)
    packed = {name for name in tree.files if kind_of(name)}
    if not packed:
        return None
    refuse(
        f"{title}: not all that lies in {place} can be read:",
        tree.faults,
        "Mount, fetch or repair what is missing. Then start the same command again.",
    )
    kinds = sorted({str(kind_of(name)) for name in packed})
    if len(kinds) > 1:
        raise DataError(
            f"{title}: {place} holds {' and '.join(kinds)}, which may be the same images twice: "
            "move all but one kind away."
        )
    skipped = Counter(
        "beside packed images" if name not in packed else "names no part"
        for name in tree.files
        if name not in packed or part_of(name) is None
    )
    states = {name: tree.files[name] for name in sorted(packed) if part_of(name)}
    present = {part_of(name) for name in states}
    if len(present) != 2 or "train" not in present:
        told = ", ".join(sorted(filter(None, present))) or "none"
        raise DataError(
            f"{title}: {place} holds {kinds[0]}; expected the word train in the names of some, and "
            f"either val (valid, validation) or test in those of the others, found {told}. "
            "Rename them or put them into folders of these names; if there are three parts, move "
            "one away, which for ImageNet is test: it has no labels."
        )
    return Survey(place, {}, states, tree.skipped + skipped)


def kind_of(name: str) -> str | None:
    """Which kind of packed images a file holds, by its name; None if none."""
    return next((kind for kind, ending in PACKED.items() if ending.search(name)), None)


def part_of(name: str) -> str | None:
    """The part of a data set that a file's name tells, by the last such word in it; None if none.

    >>> part_of("data/imagenet_train-00000-of-00294.parquet")
    'train'
    """
    words = re.findall(r"(?<![a-z])(train|validation|valid|val|test)(?![a-z])", name.lower())
    return re.sub("^val.*", "val", words[-1]) if words else None


def _state(path: Path) -> State:
    status = path.stat()
    return State(status.st_size, status.st_mtime_ns)


def skipped_told(skipped: Mapping[str, int]) -> str:
    """Such as `3 hidden file, 2 no image (.txt)`; empty if nothing was skipped."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))


def outdated(data_set: DataSet, folder: Path) -> str:
    """Why the prepared `folder` is no longer what its class folders hold; empty if it is, or if
    the class folders are not here to be compared.
    """
    known = read_sources(folder)
    place = Path(data_set.path or "").expanduser()
    if known is None or data_set.path is None or not place.is_dir():
        return ""
    try:
        contents = holders_in(data_set.title, place) or survey(data_set.title, place)
        change = _change(contents, known)
    except DataError as error:
        change = str(error)
    if not change:
        return ""
    return (
        f"{place} has changed since {folder} was made of it: {change}. Remove {folder} to prepare "
        "it again; what was trained on other pixels is then trained anew."
    )


def _change(contents: Survey, known: Sources) -> str:
    if contents.digest == known.digest:
        return ""
    size = sum(state.size for state in contents.states.values())
    told = []
    if len(contents.states) != known.images:
        what = "images" if contents.images else "files of images"
        told.append(f"{len(contents.states):,} {what}, {known.images:,} were prepared")
    if size != known.size:
        told.append(f"{size:,} bytes, {known.size:,} were prepared")
    return "; ".join(told) or "names or times of files are others, number and size are the same"


def read_sources(folder: Path) -> Sources | None:
    """What a prepared folder was made of; None where it was not made of class folders.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return Sources.model_validate_json((folder / SOURCES).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"{folder / SOURCES} is damaged: remove {folder}, or `dvc checkout` it"
        ) from error


def _is_image(tree: Tree, name: str, skipped: Counter[str]) -> bool:
    """Whether a file is an image; what is not is counted."""
    ending = os.path.splitext(name)[1].lower()
    if name == ANNOTATIONS:
        return False
    if ending in IMAGE_ENDINGS:
        return True
    try:
        with (tree.root / name).open("rb") as file:
            beginning = file.read(_BEGINNING)
    except OSError:
        beginning = b""  # whatever it is, its name does not say that it is an image
    if _BEGINNINGS.match(beginning):
        return True
    skipped[f"no image ({shown(ending) or 'no ending'})"] += 1
    return False


def _unreadable(tree: Tree, images: list[str]) -> Iterator[str]:
    effective = os.access in os.supports_effective_ids
    for name in images:
        if not os.access(tree.root / name, os.R_OK, effective_ids=effective):
            yield f"{shown(name)} cannot be read: Permission denied"


def _by_part(
    title: str, place: Path, tree: Tree, images: list[str], skipped: Counter[str]
) -> dict[Part, ByClass]:
    """The images of both parts by class; every folder directly below a part is one."""
    splits = {split: _split(tree, split) for split in PARTS}
    for name in images:
        split, _, rest = name.partition("/")
        label, below, _ = rest.partition("/")
        if below:
            splits[split][label].append(name)
        else:
            skipped["image in no class's folder"] += 1
    test = annotated(images, tree.files, place, _text(place / ANNOTATIONS))
    if test:
        return {"train": splits["train"], "test": test}
    present = [split for split in TEST_PARTS if splits[split]]
    if not splits["train"] or len(present) != 1:
        raise DataError(_misplaced(title, place, splits["train"], present))
    return {"train": splits["train"], "test": splits[present[0]]}


def _split(tree: Tree, split: str) -> ByClass:
    below = (name.split("/") for name in tree.folders)
    return {parts[1]: [] for parts in sorted(below) if len(parts) == 2 and parts[0] == split}


def _text(path: Path) -> Callable[[], str]:
    return lambda: path.read_text(encoding="utf-8")


def annotated(
    images: list[str], files: Collection[str], place: Path, text: Callable[[], str]
) -> ByClass:
    """The images of `val/images/` by the class that Tiny ImageNet's val_annotations.txt tells.

    Empty if the validation images are not laid out like that. Raises DataError if images and
    annotations do not fit together.
    """
    there = {name for name in images if name.startswith("val/images/")}
    if not there or ANNOTATIONS not in files:
        return {}
    by_class: ByClass = {}
    told = set()
    for line in text().splitlines():
        file, separator, rest = line.partition("\t")
        if separator:
            told.add(f"val/images/{file}")
            by_class.setdefault(rest.partition("\t")[0], []).append(f"val/images/{file}")
    if told != there:
        odd = sorted(told ^ there)
        raise DataError(
            f"{place}: the images in val/images/ are not those in {ANNOTATIONS}: expected "
            f"{len(told):,} images, found {len(there):,}; e.g. {odd[0]} is only in one of "
            "the two. Unpack the official archive again."
        )
    return by_class


def _misplaced(title: str, place: Path, train: ByClass, present: list[str]) -> str:
    """What is wrong with the parts of a folder, and which folder may be meant."""
    if not train and holders_in(title, place):
        return (
            f"{title}: {place} holds files of many images each, which are read with "
            "`stored: original` in place of `stored_size`."
        )
    if not train:
        text = f"expected at least two class folders with images in {place}/train, found none."
    else:
        number = "both" if present else "neither"
        text = (
            "expected labelled test images in either val/<class>/ or test/<class>/ below "
            f"{place}, found {number}."
        )
    if train and present:
        return (
            f"{title}: {text} The hold-out for validation is drawn from train/, so one of the two "
            "is enough: move the other away."
        )
    names = sorted(entry.name for entry in place.iterdir() if not entry.name.startswith("."))
    text += f" There are: {some([shown(name) for name in names]) or 'no files'}."
    inner = [each for each in (place / name for name in names) if (each / "train").is_dir()]
    if inner:
        return f"{title}: {text} The parts lie in {inner[0]}: name that as `path`."
    if place.name in PARTS and (place.parent / "train").is_dir():
        return f"{title}: {text} Name the folder above, {place.parent}, as `path`."
    return f"{title}: {text} Sort the images into such folders."


def _class_faults(part: Part, by_class: ByClass) -> Iterator[str]:
    forms = Counter(unicodedata.normalize("NFC", label) for label in by_class)
    for label, names in sorted(by_class.items()):
        if not names:
            yield f"{part}: {shown(label)} has no images"
        try:
            label.encode()
        except UnicodeEncodeError:
            yield (
                f"{part}: the name {shown(label)} is not UTF-8: rename the folder "
                "(`convmv -f latin1 -t utf8 --notest` does it)"
            )
        if forms[unicodedata.normalize("NFC", label)] > 1:
            yield f"{part}: {shown(label)} is there twice, in two Unicode forms of one name"


def _composed(by_class: ByClass) -> ByClass:
    return {unicodedata.normalize("NFC", label): names for label, names in by_class.items()}


def check_classes(title: str, place: Path, train: ByClass, test: ByClass) -> None:
    """Every class has training and test images, and there are at least two; else DataError."""
    if len(train) < 2:
        raise DataError(
            f"{title}: expected at least two class folders with images in {place}/train, "
            f"found {', '.join(train) or 'none'}."
        )
    missing = sorted(train.keys() - test.keys())
    surplus = sorted(test.keys() - train.keys())
    if missing or surplus:
        text = f"{title} in {place}: training and test images have not the same classes."
        if missing:
            text += f" Without test images: {some(missing)}."
        if surplus:
            text += f" Without training images: {some(surplus)}."
        if surplus == ["images"]:
            text += (
                f" Images of val/images/ are told apart by {ANNOTATIONS}, which is not there: "
                "restore it, or sort them into val/<class>/."
            )
        raise DataError(f"{text} Each class needs a folder with images in both.")


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
