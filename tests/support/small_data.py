"""Small data sets in the official formats, with facts that fit them."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
from PIL import Image
from scipy.io import savemat

from barlow_atlas.data.catalog import (
    CATALOG,
    SQUASHED,
    VOC_CLASSES,
    WITH_OBJECTS,
    Archive,
    Counts,
    DataSet,
    OfficialFile,
)

CIFAR_SIDE = 4
CIFAR_FILES = {"data_batch_1": "train", "data_batch_2": "train", "test_batch": "test"}


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def pack(folder: Path, archive: Path) -> Path:
    """A .tar.gz or .zip beside `folder` that unpacks to it."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(archive, "w:gz") as file:
            # Not in the catalogue's order: readers must not count on it.
            for path in sorted(folder.iterdir(), reverse=True):
                file.add(path, f"{folder.name}/{path.name}")
    return archive


def with_facts_of(
    data_set: DataSet, folder: Path, archive: Path | None = None, url: str | None = None
) -> DataSet:
    """The same data set with the sizes and checksums of the files that lie there now."""
    files = tuple(
        OfficialFile(
            name=f.name,
            part=f.part,
            md5=md5_of(folder / f.name),
            size=(folder / f.name).stat().st_size,
        )
        for f in data_set.files
    )
    known = data_set.archive
    assert known is not None
    if archive is None:
        facts = Archive(name=known.name, folder=known.folder, md5="0" * 32, url=url)
    else:
        facts = Archive(
            name=archive.name,
            folder=folder.name,
            md5=md5_of(archive),
            size=archive.stat().st_size,
            url=url,
        )
    return data_set.model_copy(update={"files": files, "archive": facts})


def small_cifar(root: Path) -> tuple[DataSet, Path]:
    """CIFAR-10 of 4 x 4 pixels: 2 batches of 20 training images, 10 test images, 2 classes.

    Writes the folder and the archive into `root`. Returns the facts and the folder.
    """
    rng = np.random.default_rng(0)
    folder = root / "small-batches-py"
    folder.mkdir(parents=True)
    for name, part in CIFAR_FILES.items():
        count = 20 if part == "train" else 10
        batch = {
            "data": rng.integers(0, 256, (count, 3 * CIFAR_SIDE**2), dtype=np.uint8),
            "labels": [i % 2 for i in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    facts = CATALOG["cifar10"].model_copy(
        update={
            "name": "small-cifar",
            "title": "Small CIFAR",
            "image_size": CIFAR_SIDE,
            "classes": 2,
            "counts": Counts(train=40, test=10),
            "files": tuple(
                f
                for f in CATALOG["cifar10"].files
                if f.name in CIFAR_FILES or f.name == "batches.meta"
            ),
        }
    )
    return with_facts_of(facts, folder, pack(folder, root / "small.tar.gz")), folder


def small_stl10(root: Path, side: int, unlabeled: int) -> tuple[DataSet, Path, dict[str, object]]:
    """STL-10 of 20 training, 10 test and some unlabeled images; also the arrays it was made of."""
    rng = np.random.default_rng(1)
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    counts = {"train": 20, "test": 10, "unlabeled": unlabeled}
    arrays: dict[str, object] = {}
    for part, count in counts.items():
        images = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
        # The official files run down the columns.
        images.transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        arrays[part] = images
        if part != "unlabeled":
            (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    facts = CATALOG["stl10"].model_copy(
        update={"name": "small-stl10", "image_size": side, "counts": Counts(**counts)}
    )
    archive = pack(folder, root / "stl10_binary.tar.gz")
    return with_facts_of(facts, folder, archive), folder, arrays


TINY_CLASSES = ("n01", "n02", "n03")


def small_tiny(root: Path) -> tuple[DataSet, Path]:
    """Tiny ImageNet of 3 classes with 4 training and 2 validation images of 8 x 8 pixels."""
    folder = root / "tiny-imagenet-200"
    (folder / "val/images").mkdir(parents=True)
    (folder / "test/images").mkdir(parents=True)
    annotations = []
    for c, wnid in enumerate(TINY_CLASSES):
        for k in range(4):
            write_image(folder / f"train/{wnid}/images/{wnid}_{k}.JPEG", 8, seed=10 * c + k)
        (folder / f"train/{wnid}/{wnid}_boxes.txt").write_text("not an image\n")
        for k in range(2):
            # Numbers run across the classes, as in the official files.
            name = f"val_{3 * k + c}.JPEG"
            write_image(folder / "val/images" / name, 8, seed=100 + 10 * c + k)
            annotations.append(f"{name}\t{wnid}\t0\t0\t8\t8\n")
    write_image(folder / "test/images/test_0.JPEG", 8, seed=999)
    (folder / "val/val_annotations.txt").write_text("".join(annotations))
    facts = CATALOG["tiny-imagenet"].model_copy(
        update={"image_size": 8, "classes": 3, "counts": Counts(train=12, test=6)}
    )
    return with_facts_of(facts, folder, pack(folder, root / "tiny-imagenet-200.zip")), folder


TARGET_SIDE = 8


def target_facts(name: str, **changes: object) -> DataSet:
    """A target of the catalogue at 8 pixels, with other facts."""
    return SQUASHED[name].at(TARGET_SIDE).model_copy(update=changes)


def with_archive_of(facts: DataSet, folder: Path) -> DataSet:
    """The facts with the checksum of an archive of `folder`, which is written beside it."""
    known = facts.archive
    assert known is not None
    packed = pack_tree(folder, folder.parent / known.name)
    md5 = md5_of(packed) if known.md5 else None
    return facts.model_copy(update={"archive": known.model_copy(update={"md5": md5, "url": None})})


def pack_tree(folder: Path, archive: Path) -> Path:
    """A .zip, .tgz or .tar.gz of all that is below a folder; images come before their lists."""
    if archive.suffix == ".zip":
        return pack(folder, archive)
    with tarfile.open(archive, "w:gz") as file:
        for path in sorted(folder.rglob("*"), key=lambda p: (p.suffix == ".txt", p)):
            file.add(path, path.relative_to(folder.parent), recursive=False)
    return archive


def small_dtd(root: Path) -> tuple[DataSet, Path]:
    """Two textures with 2 images in each of train1, val1 and test1; a second split beside them."""
    folder = root / "dtd"
    for k, part in enumerate(("train", "val", "test")):
        lines = []
        for c, name in enumerate(("banded", "dotted")):
            for i in range(2):
                file = f"{name}/{name}_{part}{i}.jpg"
                write_image(folder / "images" / file, (9 + 4 * i, 12), seed=10 * k + 3 * c + i)
                lines.append(f"{file}\n")
        (folder / "labels").mkdir(exist_ok=True)
        (folder / f"labels/{part}1.txt").write_text("".join(lines))
        (folder / f"labels/{part}2.txt").write_text("banded/nothing.jpg\n")
    facts = target_facts("dtd", classes=2, counts=Counts(train=8, test=4), validation_share=0.5)
    return with_archive_of(facts, folder), folder


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def small_mnist(root: Path, name: str = "mnist") -> tuple[DataSet, Path, dict[str, np.ndarray]]:
    """MNIST of 40 training and 20 test images of 6 x 6 pixels; also what they were made of."""
    facts = target_facts(name, counts=Counts(train=40, test=20))
    folder = root / (facts.folder or "")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    arrays: dict[str, np.ndarray] = {}
    for part, prefix, count in (("train", "train", 40), ("test", "t10k", 20)):
        arrays[part] = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
        contents = {"images-idx3": arrays[part], "labels-idx1": np.arange(count) % 10}
        for kind, content in contents.items():
            path = folder / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx_bytes(content)))
    return with_checksums_of(facts, folder), folder, arrays


def with_checksums_of(facts: DataSet, folder: Path) -> DataSet:
    """The same single files with the checksums of those that lie there now, and no address."""
    files = tuple(
        f.model_copy(update={"md5": md5_of(folder / f.name), "url": None}) for f in facts.files
    )
    return facts.model_copy(update={"files": files})


def small_cub(root: Path) -> tuple[DataSet, Path]:
    """Two birds with 3 training and 2 test images each; images are numbered across the classes."""
    folder = root / "CUB_200_2011"
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for number in range(1, 11):
        label = 1 if number % 2 else 2
        name = f"00{label}.Bird_{label}/Bird_{number:04d}.jpg"
        write_image(folder / "images" / name, (10, 14), seed=number)
        lists["images"].append(f"{number} {name}\n")
        lists["image_class_labels"].append(f"{number} {label}\n")
        lists["train_test_split"].append(f"{number} {int(number <= 6)}\n")
    lists["classes"] = ["1 001.Bird_1\n", "2 002.Bird_2\n"]
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(lines))
    facts = target_facts("cub-200", classes=2, counts=Counts(train=6, test=4), validation_share=0.4)
    return with_archive_of(facts, folder), folder


def small_flowers(root: Path) -> tuple[DataSet, Path]:
    """Two flowers of 5 and 10 images; the second class appears first."""
    folder = root / "flowers-102"
    labels = [2, 1, 2, 2, 1, 1, 2, 2, 2, 1, 2, 2, 2, 1, 2]
    for number in range(1, len(labels) + 1):
        write_image(folder / f"jpg/image_{number:05d}.jpg", (12, 9), seed=number)
    pack_tree(folder / "jpg", folder / "102flowers.tgz")
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    facts = target_facts("flowers-102", classes=2, validation_share=0.2)
    return with_checksums_of(facts, folder), folder


def small_gtsdb(root: Path) -> tuple[DataSet, Path]:
    """Three signs of 5, 10 and 1 crops, and a whole image beside them."""
    folder = root / "FullIJCNN2013"
    for label, count in enumerate((5, 10, 1)):
        for i in range(count):
            write_image(folder / f"{label:02d}/{i:05d}.ppm", (7 + i, 9), seed=20 * label + i)
    write_image(folder / "00000.ppm", (20, 10), seed=99)
    (folder / "gt.txt").write_text("00000.ppm;1;1;5;5;0\n")
    facts = target_facts("traffic-signs", classes=3, validation_share=0.3)
    return with_archive_of(facts, folder), folder


def small_aircraft(root: Path) -> tuple[DataSet, Path]:
    """Two variants, one with a blank in its name, with 2 trainval and 1 test images each."""
    folder = root / "fgvc-aircraft-2013b"
    parts: dict[str, list[str]] = {"trainval": [], "test": []}
    boxes = []
    order = ["trainval", "trainval", "test", "test", "trainval", "trainval"]
    variants = ["707-320", "An 12", "An 12", "707-320", "An 12", "707-320"]
    for number, (part, variant) in enumerate(zip(order, variants, strict=True)):
        name = f"{number:07d}"
        write_image(folder / f"data/images/{name}.jpg", (24, 16), seed=number)
        parts[part].append(f"{name} {variant}\n")
        boxes.append(f"{name} {1 + number} 2 {20 - number} 14\n")
    for part, lines in parts.items():
        (folder / f"data/images_variant_{part}.txt").write_text("".join(lines))
    (folder / "data/images_box.txt").write_text("".join(boxes))
    facts = target_facts(
        "aircraft", classes=2, counts=Counts(train=4, test=2), validation_share=0.5
    )
    return with_archive_of(facts, folder), folder


VocObject = tuple[str, tuple[float, float, float, float], bool]
"""Class, xmin, ymin, xmax, ymax counted from 1, and whether it is difficult."""


def voc_images(first: int, times: int = 1) -> dict[str, list[VocObject]]:
    """Ten images, some times over, each with two classes by turns of VOC's twenty; the first also
    with a difficult cat, and one more with a difficult bird alone."""
    images: dict[str, list[VocObject]] = {}
    for k in range(10 * times):
        images[f"{first + k:06d}"] = [
            (VOC_CLASSES[2 * k % 20], (1, 1, 10, 8), False),
            (VOC_CLASSES[2 * k % 20 + 1], (3, 2, 12.5, 9), False),
        ]
    images[f"{first:06d}"].append(("cat", (2, 2, 4, 4), True))
    images[f"{first + 10 * times:06d}"] = [("bird", (1, 1, 5, 5), True)]
    return images


def write_voc(folder: Path, part: str, images: dict[str, list[VocObject]]) -> None:
    """A part of VOC's year folder: image sets by class, annotations, and images of 14 x 12 pixels.

    A person has a part with a box of its own, as in the official annotations.
    """
    sets = folder / "ImageSets/Main"
    sets.mkdir(parents=True, exist_ok=True)
    (folder / "Annotations").mkdir(exist_ok=True)
    (sets / f"{part}.txt").write_text("".join(f"{name}\n" for name in images))
    for each in VOC_CLASSES:
        lines = []
        for name, objects in images.items():
            marks = [difficult for kind, _, difficult in objects if kind == each]
            lines.append(f"{name} {-1 if not marks else 0 if all(marks) else 1:2d}\n")
        (sets / f"{each}_{part}.txt").write_text("".join(lines))
    for name, objects in images.items():
        write_image(folder / f"JPEGImages/{name}.jpg", (14, 12), seed=int(name))
        told = ["<annotation><size><width>14</width><height>12</height><depth>3</depth></size>"]
        for kind, box, difficult in objects:
            sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            bounds = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
            head = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
            told.append(
                f"<object><name>{kind}</name>{head if kind == 'person' else ''}"
                f"<difficult>{int(difficult)}</difficult><bndbox>{bounds}</bndbox></object>"
            )
        (folder / f"Annotations/{name}.xml").write_text("".join([*told, "</annotation>"]))


def packed_apart(facts: DataSet, folder: Path) -> tuple[DataSet, Path]:
    """A folder with the official archives alone, each of what one of them holds in `folder`."""
    place = folder.parent.parent / "packed" / folder.name
    place.mkdir(parents=True)
    for file in facts.files:
        kind = "w:gz" if file.name.endswith("gz") else "w"
        with tarfile.open(place / file.name, kind) as archive:
            for path in sorted(folder.rglob("*")):
                inside = path.relative_to(folder).as_posix()
                if path.is_file() and belongs(file.name, inside):
                    root = f"{folder.name}/" if folder.name == "VOCdevkit" else "./"
                    archive.add(path, root + inside)
    files = tuple(
        f.model_copy(update={"md5": f.md5 and md5_of(place / f.name)}) for f in facts.files
    )
    return facts.model_copy(update={"files": files}), place


def belongs(archive: str, inside: str) -> bool:
    """Whether a file is in an official archive of VOC07, Places205 or iNaturalist."""
    if archive.startswith("VOC"):
        part = "test" if "test" in archive else "trainval"
        year = "VOC2012/" if "2012" in archive else "VOC2007/"
        start = "02" if "2012" in archive else "01" if part == "test" else "00"
        named = inside.endswith(f"{part}.txt") or inside.rpartition("/")[2].startswith(start)
        return inside.startswith(year) and named
    kinds = {"imagesPlaces": "data/", "trainvalsplit": "trainvalsplit", "train_val": "train_val"}
    start = next((inner for outer, inner in kinds.items() if archive.startswith(outer)), None)
    return inside.startswith(start or archive.removesuffix(".tar.gz"))


def small_voc(root: Path) -> tuple[DataSet, Path]:
    """VOC 2007 of eleven trainval images, 000001 and on, and eleven test images, 010001 and on."""
    folder = root / "VOCdevkit"
    write_voc(folder / "VOC2007", "trainval", voc_images(1))
    write_voc(folder / "VOC2007", "test", voc_images(10_001))
    files = tuple(f.model_copy(update={"url": None}) for f in SQUASHED["voc07"].files)
    counts = Counts(train=11, test=11)
    return target_facts("voc07", counts=counts, files=files, validation_share=0.2), folder


def small_voc0712(root: Path) -> tuple[DataSet, Path]:
    """VOC's objects: eleven images in each of 2007's trainval and test and 2012's trainval."""
    _, folder = small_voc(root)
    write_voc(folder / "VOC2012", "trainval", voc_images(20_001))
    files = tuple(f.model_copy(update={"url": None}) for f in WITH_OBJECTS["voc0712"].files)
    facts = {"files": files, "counts": Counts(train=22, test=11), "validation_share": 0.2}
    return WITH_OBJECTS["voc0712"].model_copy(update=facts), folder


def write_voc_years(raw: Path) -> tuple[tuple[str, str], ...]:
    """VOC's years among raw files, and the catalogue's counts of them with those to put there."""
    years = {
        ("VOC2007", "trainval"): voc_images(1, 4),
        ("VOC2007", "test"): voc_images(10_001),
        ("VOC2012", "trainval"): voc_images(20_001),
    }
    for (year, part), images in years.items():
        write_voc(raw / "VOCdevkit" / year, part, images)
    return ("5_011, test=4_952", "41, test=11"), ("16_551, test=4_952", "52, test=11")


def change_catalog(folder: Path, *changes: tuple[str, str]) -> None:
    """Puts other facts of data sets into the catalogue of a clone."""
    catalog = folder / "src/barlow_atlas/data/catalog.py"
    facts = catalog.read_text()
    for official, small in changes:
        assert facts.count(official) == 1, official
        facts = facts.replace(official, small)
    catalog.write_text(facts)


def small_coco(root: Path, training: int = 4) -> tuple[DataSet, Path]:
    """COCO of two categories: some training and two validation images of 30 x 20 pixels.

    Each has a square of the first and one of the second; the last of a part has nothing, and the
    first a crowd as well.
    """
    folder = root / "coco"
    (folder / "annotations").mkdir(parents=True)
    for part, count, first in (("train2017", training, 100), ("val2017", 2, 200)):
        images, told = [], []
        for number in range(first, first + count):
            name = f"{number:012d}.jpg"
            write_image(folder / part / name, (30, 20), seed=number)
            images.append({"id": number, "file_name": name, "height": 20, "width": 30})
            if number == first + count - 1:
                continue
            for category, (x, y, side) in ((1, (2, 3, 9)), (90, (15, 5, 12))):
                told.append(
                    {
                        "image_id": number,
                        "category_id": category,
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                        "segmentation": [
                            [x, y, x + side, y, x + side, y + side, x, y + side],
                        ],
                    }
                )
        crowd = {"size": [20, 30], "counts": [0, 300, 300]}
        told.append({**told[0], "iscrowd": 1, "segmentation": crowd})
        categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}]
        content = {"images": images, "categories": categories}
        content["annotations"] = [{**each, "id": k} for k, each in enumerate(told, 1)]
        file = folder / f"annotations/instances_{part}.json"
        file.write_text(json.dumps(content))
    counts = Counts(train=training, test=2)
    facts = {"classes": 2, "counts": counts, "validation_share": 0.4}
    files = tuple(f.model_copy(update={"size": None}) for f in WITH_OBJECTS["coco"].files)
    return WITH_OBJECTS["coco"].model_copy(update={**facts, "files": files}), folder


def zipped_apart(facts: DataSet, folder: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """A folder with COCO's three archives alone, images in them not compressed."""
    place = folder.parent.parent / "packed" / folder.name
    place.mkdir(parents=True)
    for file in facts.files:
        inside = "annotations" if file.part == "all" else file.name.removesuffix(".zip")
        with zipfile.ZipFile(place / file.name, "w", compression) as archive:
            for path in sorted((folder / inside).iterdir()):
                archive.write(path, f"{inside}/{path.name}")
    return place


def small_places(root: Path) -> tuple[DataSet, Path]:
    """Two scenes, one in a folder of a folder, with 4 training and 2 validation images each."""
    folder = root / "places205"
    images = folder / "data/vision/torralba/deeplearning/images256"
    lists = folder / "trainvalsplit_places205"
    lists.mkdir(parents=True)
    for part, first, last in (("train", 0, 4), ("val", 4, 6)):
        lines = []
        for k in range(first, last):
            for label, scene in enumerate(("a/attic", "c/cathedral/indoor")):
                name = f"{scene}/gsun_{k}.jpg"
                write_image(images / name, 16, seed=10 * label + k)
                lines.append(f"{name} {label}\n")
        (lists / f"{part}_places205.csv").write_text("".join(lines))
    counts = Counts(train=8, test=4)
    return target_facts("places205", classes=2, counts=counts, validation_share=0.25), folder


def small_inaturalist(root: Path) -> tuple[DataSet, Path]:
    """Three species, whose numbers have a gap, with 2 training and 1 validation images each."""
    folder = root / "inaturalist-2018"
    species = {0: "Aves/0", 3: "Plantae/3", 7: "Plantae/7"}
    for part, count, first in (("train", 2, 100), ("val", 1, 200)):
        images, annotations = [], []
        for i, (category, place) in enumerate(list(species.items())[::-1] * count):
            name = f"train_val2018/{place}/{first + i}.jpg"
            write_image(folder / name, (18, 14), seed=first + i)
            images.append({"id": first + i, "file_name": name, "width": 18, "height": 14})
            annotations.append({"id": i, "image_id": first + i, "category_id": category})
        categories = [{"id": k, "name": str(1000 + k)} for k in sorted(species, reverse=True)]
        told = {"images": images, "annotations": annotations[::-1], "categories": categories}
        (folder / f"{part}2018.json").write_text(json.dumps(told))
    counts = Counts(train=6, test=3)
    facts = target_facts("inaturalist-2018", classes=3, counts=counts, validation_share=0.5)
    return facts, folder


def write_image(path: Path, size: int | tuple[int, int], seed: int, mode: str = "RGB") -> None:
    shape = (size, size) if isinstance(size, int) else size[::-1]
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    kind = {".png": "PNG", ".ppm": "PPM"}.get(path.suffix, "JPEG")
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    path.write_bytes(buffer.getvalue())


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _Interrupted(_Quiet):
    """Announces the whole file and closes the connection after half of it."""

    def copyfile(self, source: io.BufferedIOBase, outputfile: io.BufferedIOBase) -> None:  # type: ignore[override]
        content = source.read()
        outputfile.write(content[: len(content) // 2])


@contextmanager
def served(folder: Path, interrupted: bool = False) -> Iterator[str]:
    """The URL of a folder, served over HTTP on loopback by a thread."""
    handler = partial(_Interrupted if interrupted else _Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
