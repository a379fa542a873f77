"""What it costs to prepare 30,000 small JPEGs of which 1 in 100 is no plain image file.

Makes class folders as people have them, prepares them twice, first with damaged images among them
and then without, checks every count, and prints a table in Markdown; benchmarks/preparation.md has
one.

With the word `killed` it stores 30,000 such images as their files have them, once undisturbed and
once in a preparation that is ended twenty times by SIGKILL, and compares the checksums of all.

With the word `imagenet` it stores as many images as ImageNet has, in as many shards, and tells the
memory that takes. They are links to a few small files, one of each kind that needs another way.
"""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from barlow_atlas.data import preparation
from barlow_atlas.data.catalog import class_folder
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import sha256_of
from barlow_atlas.data.survey import read_sources
from barlow_atlas.data.tree import SHOWN

CLASSES, TRAIN, TEST, SIDE, STORED = 10, 2_500, 500, 64, 32
EACH = 50
"""Odd files of a kind."""
KILLS = 20
SHARD_BYTES = 2 << 20
"""Of these small images, so that there are some tens of shards."""
IMAGENET = {"train": 1_281_167, "val": 50_000}
IMAGENET_CLASSES = 1_000
IMAGENET_SHARDS = 138
"""Of 1 GiB, about 148 GB."""
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "of whole colours": {"subsampling": 0},
    "progressive": {"progressive": True},
    "CMYK": {},
    "PNG": {"format": "PNG"},
}


def image(place: int) -> Image.Image:
    pixels = np.random.default_rng(place).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def places() -> Iterator[str]:
    for part, count in (("train", TRAIN), ("test", TEST)):
        for label in range(CLASSES):
            for place in range(count):
                yield f"{part}/class{label}/{place}.jpg"


def hidden(root: Path, place: int) -> None:
    folder = root / f"train/class{place % CLASSES}/.ipynb_checkpoints{place}"
    folder.mkdir()
    image(0).save(folder / "copy.jpg")


def system(root: Path, place: int) -> None:
    folder = root / f"train/class{place % CLASSES}/sub{place}/@eaDir"
    folder.mkdir(parents=True)
    image(0).save(folder / "thumbnail.jpg")


def text(root: Path, place: int) -> None:
    (root / f"train/class{place % CLASSES}/{place}.txt").write_text("words")


def pipe(root: Path, place: int) -> None:
    os.mkfifo(root / f"train/class{place % CLASSES}/pipe{place}.jpg")


def link(root: Path, place: int) -> None:
    (root / f"train/class{place % CLASSES}/link{place}.jpg").symlink_to("0.jpg")


LEFT_OUT: dict[str, Callable[[Path, int], None]] = {
    "hidden folder": hidden,
    "system's folder": system,
    "no image (.txt)": text,
    "no regular file": pipe,
    "link to what is read anyway": link,
}


def make_plain(root: Path) -> None:
    """The folders without what is no plain image."""
    for place, name in enumerate(places()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image(place).save(root / name, quality=85)


def make(root: Path) -> list[Path]:
    """The folders; returns the damaged images in them."""
    make_plain(root)
    for odd in LEFT_OUT.values():
        for place in range(EACH):
            odd(root, place)
    damaged = [root / f"train/class{place % CLASSES}/damaged{place}.jpg" for place in range(EACH)]
    for path in damaged:
        path.write_bytes((root / "train/class0/0.jpg").read_bytes()[:300])
    return damaged


def told(root: Path, damaged: int) -> str:
    """Prepares the folders and checks what is said and counted."""
    facts, folder = class_folder("many", str(root / "many"), STORED), root / "prepared"
    if damaged:
        try:
            prepare(facts, folder, root)
        except DataError as error:
            lines = str(error).splitlines()
            assert f"{damaged} of its images cannot be used" in lines[0], lines[0]
            assert len([line for line in lines if "damaged" in line]) == SHOWN
            assert f"  and {damaged - SHOWN} more" in lines
            return f"refused: {damaged} damaged images, {SHOWN} of them by name"
        raise AssertionError("damaged images were taken")
    manifest, sources = prepare(facts, folder, root), read_sources(folder)
    assert sources is not None
    assert sources.skipped == dict.fromkeys(sorted(LEFT_OUT), EACH), sources.skipped
    assert (manifest.train.images, manifest.test.images) == (CLASSES * TRAIN, CLASSES * TEST)
    counted = ", ".join(f"{count} {reason}" for reason, count in sources.skipped.items())
    return f"prepared: {sources.images:,} images; left out: {counted}"


def originals(root: Path, destination: str) -> None:
    prepare(class_folder("many", str(root / "many"), None), root / destination, root)


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def killed(root: Path) -> str:
    """Ends a preparation `KILLS` times, at moments drawn; compares it with an undisturbed one."""
    make_plain(root / "many")
    preparation.SHARD_BYTES = SHARD_BYTES
    forked, draw = multiprocessing.get_context("fork"), random.Random(0)
    began = time.monotonic()
    whole = forked.Process(target=originals, args=(root, "undisturbed"))
    whole.start()
    whole.join()
    seconds = time.monotonic() - began
    kills = lives = 0
    while kills < KILLS:
        life = forked.Process(target=originals, args=(root, "ended"))
        life.start()
        life.join(draw.uniform(0.1, 1.5) * seconds / 4)
        life.kill()
        life.join()
        lives += 1
        kills += life.exitcode == -signal.SIGKILL
        if life.exitcode == 0:  # whole before the last of the kills: it begins anew
            shutil.rmtree(root / "ended")
    originals(root, "ended")
    expected = checksums(root / "undisturbed")
    assert checksums(root / "ended") == expected
    shards = sum(name.endswith(".shard") for name in expected)
    return (
        f"killed {kills} times in {lives} lives: the same sha256 of {len(expected)} files, of "
        f"which {shards} are shards, as undisturbed in {seconds:.0f} s"
    )


def make_imagenet(root: Path, share: float) -> int:
    """A share of ImageNet's names, as links to images of all `KINDS`; returns the bytes of all."""
    size = 0
    for part, whole in IMAGENET.items():
        files = []
        for k in range(100):  # a file system has a limit of links, such as 65,000
            files.append(root / f"{part}{k}")
            kind = list(KINDS)[k % len(KINDS)] if k < 2 * len(KINDS) else "baseline"
            mode = "CMYK" if kind == "CMYK" else "RGB"
            drawn = image(len(part) * 100 + k).resize((16, 16)).convert(mode)
            drawn.save(files[-1], **{"format": "JPEG", **KINDS[kind]})
        for number in range(round(whole * share)):
            wnid = f"n{10_000_000 + number % IMAGENET_CLASSES}"
            folder = root / "imagenet" / part / wnid
            if number < IMAGENET_CLASSES:
                folder.mkdir(parents=True)
            name = (
                f"{wnid}_{number // IMAGENET_CLASSES}"
                if part == "train"
                else f"ILSVRC2012_val_{number + 1:08d}"
            )
            file = files[number % 100]
            os.link(file, folder / f"{name}.JPEG")
            size += file.stat().st_size
    return size


def imagenet(root: Path, size: int) -> str:
    """Stores what `make_imagenet` made; the peak memory of this process, which has no others."""
    preparation.SHARD_BYTES = size // IMAGENET_SHARDS
    facts, began = class_folder("imagenet", str(root / "imagenet"), None), time.monotonic()
    manifest = prepare(facts, root / "prepared", root, report=print)
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert "torch" not in sys.modules
    assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    shards = sum(name.endswith(".shard") for name in manifest.files)
    return (
        f"{manifest.train.images + manifest.test.images:,} images, {shards} shards: peak "
        f"{used.ru_maxrss / 1024:.0f} MiB, {used.ru_utime + used.ru_stime:.0f} CPU s, "
        f"{time.monotonic() - began:.0f} s"
    )


def main() -> None:
    if sys.argv[1:2] == ["imagenet"]:
        share = float(sys.argv[2]) if sys.argv[2:] else 1.0
        with tempfile.TemporaryDirectory() as folder:
            size = make_imagenet(Path(folder), share)
            # In a process of its own, whose memory is then that of the preparation.
            subprocess.run([sys.executable, __file__, "stored", folder, str(size)], check=True)
        return
    if sys.argv[1:2] == ["stored"]:
        print(imagenet(Path(sys.argv[2]), int(sys.argv[3])))
        return
    if sys.argv[1:] == ["killed"]:
        with tempfile.TemporaryDirectory() as folder:
            print(killed(Path(folder)))
        return
    if len(sys.argv) == 3:
        began = time.monotonic()
        said = told(Path(sys.argv[1]), int(sys.argv[2]))
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = f"{time.monotonic() - began:.0f} | {used.ru_utime + used.ru_stime:.0f}"
        print(f"| {said} | {seconds} | {used.ru_maxrss / 1024:.0f} |", flush=True)
        return
    print("| what came of it | wall s | CPU s | peak MB |\n|---|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        damaged = make(Path(folder) / "many")
        for left in (len(damaged), 0):
            # In a process of its own, whose memory is then that of the preparation.
            subprocess.run([sys.executable, __file__, folder, str(left)], check=True)
            for path in damaged:
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
