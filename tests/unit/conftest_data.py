"""Small data sets in the official formats, with facts that fit them."""

import hashlib
import io
import pickle
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

from barlow_atlas.data.catalog import CATALOG, Archive, Counts, DataSet, OfficialFile

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


def write_image(path: Path, size: int | tuple[int, int], seed: int, mode: str = "RGB") -> None:
    shape = (size, size) if isinstance(size, int) else size[::-1]
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG" if path.suffix == ".png" else "JPEG")
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
