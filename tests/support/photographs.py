"""Class folders and archives of small photographs, as people have ImageNet."""

import io
import random
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CLASSES = ("n01440764", "n02102040", "n03000684")


def picture(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """A smooth random picture of that width and height."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut, or with some bytes changed, most of them in its header."""
    if draw.random() < 0.2:
        return content[: draw.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        place = draw.randrange(min(len(changed), draw.choice((64, 200, len(changed)))))
        changed[place] = draw.choice((0, 1, 2, 127, 128, 255, draw.randrange(256)))
    return bytes(changed)


def class_folders(root: Path, train: int = 6, val: int = 2) -> Path:
    """`train` and `val` images of each of `CLASSES`, in sizes of their own; ImageNet's names."""
    number = 0
    for k, wnid in enumerate(CLASSES):
        for part, count in (("train", train), ("val", val)):
            for i in range(count):
                number += 1
                size = (30 + 3 * i + k, 28 + 2 * i)
                name = f"{wnid}_{i}.JPEG"
                if part == "val":
                    # Numbers run across the classes, as in the flat archive.
                    name = f"ILSVRC2012_val_{len(CLASSES) * i + k + 1:08d}.JPEG"
                path = root / part / wnid / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(picture(number, size)))
    return root


def archives(folders: Path, root: Path) -> Path:
    """The same images as ImageNet's three archives."""
    root.mkdir(parents=True)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in reversed(CLASSES):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for path in sorted((folders / "train" / wnid).iterdir(), reverse=True):
                    tar.add(path, path.name)
            member = tarfile.TarInfo(f"{wnid}.tar")
            member.size = inner.tell()
            outer.addfile(member, io.BytesIO(inner.getvalue()))
    images = sorted((folders / "val").rglob("*.JPEG"), key=lambda path: path.name)
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as flat:
        for path in images:
            flat.add(path, path.name)
    # The kit numbers its synsets in another order than their names have, and lists inner nodes.
    numbers = {wnid: len(CLASSES) - k for k, wnid in enumerate(CLASSES)}
    rows = [(number, wnid, wnid, "", 0) for wnid, number in numbers.items()]
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    synsets = np.array([*rows, (9, "n00001740", "", "", 3)], dtype=[*fields, ("num_children", "O")])
    kit = root / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    savemat(kit / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{numbers[path.parent.name]}\n" for path in images)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(kit.parent, kit.parent.name)
    return root
