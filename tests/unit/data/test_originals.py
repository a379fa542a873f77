"""Images stored as their files have them: every form of ImageNet, every kind of file, every end."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from photographs import CLASSES, archives, class_folders, encoded, picture
from PIL import Image
from small_data import flip_a_byte, tree

from barlow_atlas.data import preparation, sharding
from barlow_atlas.data.choice import Data
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.loader import decode
from barlow_atlas.data.originals import Originals
from barlow_atlas.data.pictures import BACKGROUND
from barlow_atlas.data.prepared import Manifest, Prepared, chosen, load
from barlow_atlas.data.survey import outdated


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "images")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD_BYTES", 3_000)


def data(place: Path, **more: object) -> Data:
    return Data.model_validate({"name": "mine", "path": str(place), "stored": "original", **more})


def prepared(place: Path, destination: Path, said: list[str] | None = None, **more: object) -> Path:
    say = (said if said is not None else []).append
    preparation.prepare(data(place, **more).data_set, destination, place / "raw", report=say)
    return destination


def files_of(images: object) -> list[bytes]:
    assert isinstance(images, Originals)
    return [images.encoded(i).tobytes() for i in range(len(images))]


def test_every_image_is_stored_as_its_file_has_it(folders: Path, tmp_path: Path) -> None:
    found = load(prepared(folders, tmp_path / "out"), verify=True)
    train = sorted((folders / "train").rglob("*.JPEG"))
    assert files_of(found.train_images) == [path.read_bytes() for path in train]
    assert found.train_labels.tolist() == [CLASSES.index(path.parent.name) for path in train]
    test = sorted((folders / "val").rglob("*.JPEG"))
    assert files_of(found.test_images) == [path.read_bytes() for path in test]
    assert found.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert isinstance(found.train_images, Originals)
    assert len(found.train_images.shards) > 2
    sizes = [Image.open(path).size[::-1] for path in train]
    assert found.train_images.heights_and_widths.tolist() == [list(size) for size in sizes]
    manifest = found.manifest
    assert manifest.image_size is None
    assert manifest.channel_mean is None
    assert (manifest.train.images, manifest.test.images) == (18, 6)
    assert manifest.validation.images == 2


def test_imagenet_s_archives_give_the_same_images(folders: Path, tmp_path: Path) -> None:
    packed = archives(folders, tmp_path / "packed")
    theirs = load(prepared(packed, tmp_path / "of-archives"), verify=True)
    ours = load(prepared(folders, tmp_path / "of-folders"))
    assert theirs.manifest.classes == ours.manifest.classes == CLASSES
    for part in ("train", "test"):
        images, labels = f"{part}_images", f"{part}_labels"
        assert files_of(getattr(theirs, images)) == files_of(getattr(ours, images))
        assert getattr(theirs, labels).tolist() == getattr(ours, labels).tolist()
    assert "archives" in theirs.manifest.source


def test_some_of_the_archives_are_not_enough(folders: Path, tmp_path: Path) -> None:
    packed = archives(folders, tmp_path / "packed")
    (packed / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(DataError, match=r"but not ILSVRC2012_devkit_t12\.tar\.gz"):
        prepared(packed, tmp_path / "out")


def test_a_truncated_archive_is_named(folders: Path, tmp_path: Path) -> None:
    packed = archives(folders, tmp_path / "packed")
    train = packed / "ILSVRC2012_img_train.tar"
    train.write_bytes(train.read_bytes()[: train.stat().st_size // 2])
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train\.tar"):
        prepared(packed, tmp_path / "out")


def half_transparent() -> Image.Image:
    image = picture(6, mode="RGBA")
    image.putalpha(128)
    return image


KINDS = {
    "grey.JPEG": encoded(picture(1, mode="L")),
    "progressive.JPEG": encoded(picture(2), progressive=True),
    "cmyk.JPEG": encoded(picture(3, mode="CMYK")),
    "png-within.JPEG": encoded(picture(4), "PNG"),
    "gif-within.JPEG": encoded(picture(5), "GIF"),
    "transparent.png": encoded(half_transparent(), "PNG"),
    "palette.png": encoded(picture(7).quantize(8), "PNG"),
    "grey.png": encoded(picture(8, mode="L"), "PNG"),
    "lossless.webp": encoded(picture(9), "WEBP", lossless=True),
}
KEPT = ("grey.JPEG", "progressive.JPEG", "png-within.JPEG", "palette.png", "grey.png")


def test_whatever_a_file_is_the_stored_one_shows_its_colours(folders: Path, tmp_path: Path) -> None:
    """Files that the loader decodes to these very pixels are kept; the others become PNGs."""
    for name, content in KINDS.items():
        (folders / "train" / CLASSES[0] / f"0_{name}").write_bytes(content)
    found = load(prepared(folders, tmp_path / "out")).train_images
    assert isinstance(found, Originals)
    for number, name in enumerate(sorted(KINDS)):
        stored = found.encoded(number)
        with Image.open(io.BytesIO(KINDS[name])) as image:
            shown = image.convert("RGBA") if name == "transparent.png" else image.convert("RGB")
            if name == "transparent.png":
                shown = Image.alpha_composite(
                    Image.new("RGBA", image.size, (*BACKGROUND, 255)), shown
                ).convert("RGB")
        pixels = decode(torch.from_numpy(stored)).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(pixels, np.asarray(shown), err_msg=name)
        assert (stored.tobytes() == KINDS[name]) == (name in KEPT), name


def test_neither_progressive_jpegs_nor_pngs_have_torch_loaded(
    folders: Path, tmp_path: Path
) -> None:
    """It takes more memory than all the rest of a preparation."""
    for name, content in KINDS.items():
        (folders / "train" / CLASSES[0] / f"0_{name}").write_bytes(content)
    program = f"""
        import sys
        from pathlib import Path
        from barlow_atlas.data.catalog import class_folder
        from barlow_atlas.data.preparation import prepare

        prepare(class_folder("mine", {str(folders)!r}, None), Path("out"), Path("raw"))
        print(sorted({{"torch", "torchvision"}} & set(sys.modules)))
        """
    told = subprocess.run(
        [sys.executable, "-c", dedent(program)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert told.stdout == "[]\n"
    assert len(load(tmp_path / "out").train_images) == 18 + len(KINDS)


def test_a_listed_image_takes_some_hundred_bytes(tmp_path: Path) -> None:
    """For 1,331,167, as many as ImageNet has, 600 bytes each are 0.75 GiB."""
    listed = 40_000
    (tmp_path / "image").write_bytes(encoded(picture(1)))
    for part, count in (("train", listed - 100), ("val", 100)):
        for number in range(count):
            folder = tmp_path / f"folders/{part}/n{10_000_000 + number % 100}"
            if number < 100:
                folder.mkdir(parents=True)
            os.link(tmp_path / "image", folder / f"{folder.name}_{number}.JPEG")
    program = f"""
        from pathlib import Path
        from barlow_atlas.data import preparation
        from barlow_atlas.data.catalog import class_folder
        from barlow_atlas.data.listing import listing_of
        from barlow_atlas.data.sharding import shards_of

        def peak():  # getrusage would tell that of the parent, if it is larger
            status = Path("/proc/self/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) * 1024

        place = Path({str(tmp_path / "folders")!r})
        before = peak()
        shards = list(shards_of(listing_of(class_folder("mine", str(place), None), place), 1 << 20))
        print(sum(len(shard.entries) for shard in shards), peak() - before)
        """
    told = subprocess.run(
        [sys.executable, "-c", dedent(program)], stdout=subprocess.PIPE, text=True, check=True
    )
    images, taken = map(int, told.stdout.split())
    assert images == listed
    assert 0 < taken / listed < 600


def turned_picture() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(11, (40, 24)), exif=exif)


def test_class_folders_are_turned_and_imagenet_s_archives_are_not(
    folders: Path, tmp_path: Path
) -> None:
    (folders / "train" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG").write_bytes(turned_picture())
    packed = archives(folders, tmp_path / "packed")
    turned = load(prepared(folders, tmp_path / "a")).train_images
    as_it_is = load(prepared(packed, tmp_path / "b")).train_images
    assert isinstance(turned, Originals)
    assert isinstance(as_it_is, Originals)
    assert turned.heights_and_widths[0].tolist() == [40, 24]
    assert as_it_is.heights_and_widths[0].tolist() == [24, 40]
    assert as_it_is.encoded(0).tobytes() == turned_picture()


def spoil(folders: Path) -> list[str]:
    """A truncated photograph and a file that is none; their names."""
    names = [f"train/{CLASSES[1]}/{CLASSES[1]}_1.JPEG", f"val/{CLASSES[2]}/zero.JPEG"]
    first = folders / names[0]
    first.write_bytes(first.read_bytes()[:-200])
    (folders / names[1]).write_bytes(bytes(100))
    return names


def test_images_that_cannot_be_decoded_are_refused_all_at_once(
    folders: Path, tmp_path: Path
) -> None:
    names = spoil(folders)
    with pytest.raises(DataError, match=r"2 of its images cannot be used") as caught:
        prepared(folders, tmp_path / "out")
    assert all(name in str(caught.value) for name in names)
    assert "`unreadable: skip`" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_or_left_out_and_listed_where_the_study_says_so(folders: Path, tmp_path: Path) -> None:
    names = spoil(folders)
    said: list[str] = []
    with pytest.raises(DataError):
        prepared(folders, tmp_path / "out")
    found = load(prepared(folders, tmp_path / "out", said, unreadable="skip"), verify=True)
    # The printed advice, followed: shards that were written before it are taken as they are.
    assert any("shards are there already" in line for line in said)
    assert list(found.manifest.skipped) == names
    assert found.train_labels.tolist() == [0] * 6 + [1] * 5 + [2] * 6
    good = [p for p in sorted((folders / "train").rglob("*.JPEG")) if p.stem != f"{CLASSES[1]}_1"]
    assert files_of(found.train_images) == [path.read_bytes() for path in good]


def test_a_subset_of_the_classes(folders: Path, tmp_path: Path) -> None:
    found = load(prepared(folders, tmp_path / "out", classes=[CLASSES[2], CLASSES[0]]))
    assert found.manifest.classes == (CLASSES[0], CLASSES[2])
    assert found.train_labels.tolist() == [0] * 6 + [1] * 6
    last = sorted((folders / "train" / CLASSES[2]).iterdir())
    assert files_of(found.train_images)[6:] == [path.read_bytes() for path in last]
    with pytest.raises(DataError, match="n09999999, of which there are no images"):
        prepared(folders, tmp_path / "no", classes=[CLASSES[0], "n09999999"])


def test_published_lists_of_labels_lie_beside_the_images(folders: Path, tmp_path: Path) -> None:
    named = [f"{CLASSES[2]}_5.JPEG", f"{CLASSES[0]}_1.JPEG", f"{CLASSES[1]}_4.JPEG"]
    (folders / "1percent.txt").write_text("\n".join(named) + "\n")
    spoil(folders)  # one image before the last two is left out
    found = load(prepared(folders, tmp_path / "out", unreadable="skip"))
    assert found.label_lists["1percent"].tolist() == [1, 9, 16]
    (folders / "10percent.txt").write_text("n01440764_77.JPEG\n")
    said: list[str] = []
    with pytest.raises(DataError, match=r"10percent\.txt names n01440764_77\.JPEG"):
        prepared(folders, tmp_path / "again", said, unreadable="skip")
    assert said == []  # before any image was read


def test_a_list_that_comes_later_makes_no_other_images(folders: Path, tmp_path: Path) -> None:
    """Networks that were trained before keep their data: the manifest has the same bytes."""
    without = prepared(folders, tmp_path / "out")
    manifest = (without / "manifest.json").read_bytes()
    assert load(without).label_lists == {}
    (folders / "1percent.txt").write_text(f"{CLASSES[1]}_3.JPEG\n")
    listed = prepared(folders, without)
    assert (listed / "manifest.json").read_bytes() == manifest
    assert load(listed, verify=True).label_lists["1percent"].tolist() == [9]
    (listed / "labelled_1percent.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"labelled_1percent\.npy is damaged: its size"):
        load(listed)
    (listed / "label_lists.json").write_text("{")
    with pytest.raises(DataError, match=r"label_lists\.json is damaged"):
        load(listed)


def test_a_list_may_name_classes_that_are_not_taken(folders: Path, tmp_path: Path) -> None:
    (folders / "1percent.txt").write_text(f"{CLASSES[2]}_2.JPEG\n{CLASSES[1]}_3.JPEG\n")
    found = load(prepared(folders, tmp_path / "out", classes=[CLASSES[2], CLASSES[0]]))
    assert found.label_lists["1percent"].tolist() == [8]


def test_the_first_image_may_be_listed_and_none_twice(folders: Path, tmp_path: Path) -> None:
    first, *_, last = sorted(path.name for path in (folders / "train").rglob("*.JPEG"))
    (folders / "1percent.txt").write_text(f"{first}\n{last}\n")
    found = load(prepared(folders, tmp_path / "out"))
    assert found.label_lists["1percent"].tolist() == [0, 17]
    (folders / "1percent.txt").write_text(f"{last}\n{last}\n")
    with pytest.raises(
        DataError, match=rf"names {last}, where each line should name one training image"
    ):
        prepared(folders, tmp_path / "again")


class _Ended(Exception):
    pass


def test_what_was_ended_goes_on_with_the_shards_that_are_missing(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = tree(prepared(folders, tmp_path / "undisturbed"))
    write, begun = sharding.write_shard, []

    def ended(shard: sharding.Shard, *folders: Path) -> sharding.ShardRecord:
        if len(begun) == 3:
            raise _Ended
        begun.append(shard.name)
        return write(shard, *folders)

    monkeypatch.setattr(preparation.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(sharding, "write_shard", ended)
    with pytest.raises(_Ended):
        prepared(folders, tmp_path / "out")
    written: list[str] = []

    def noted(shard: sharding.Shard, *folders: Path) -> sharding.ShardRecord:
        written.append(shard.name)
        return write(shard, *folders)

    monkeypatch.setattr(sharding, "write_shard", noted)
    assert tree(prepared(folders, tmp_path / "out")) == undisturbed
    assert len(begun) == 3
    assert not set(begun) & set(written)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_image_that_changed_meanwhile_has_its_shard_written_anew(
    folders: Path, tmp_path: Path
) -> None:
    spoil(folders)
    with pytest.raises(DataError):
        prepared(folders, tmp_path / "out")
    (folders / f"train/{CLASSES[1]}/{CLASSES[1]}_1.JPEG").write_bytes(encoded(picture(77)))
    (folders / f"val/{CLASSES[2]}/zero.JPEG").unlink()
    found = load(prepared(folders, tmp_path / "out"), verify=True)
    assert encoded(picture(77)) in files_of(found.train_images)
    shutil.rmtree(tmp_path / "out")
    afresh = load(prepared(folders, tmp_path / "out"))
    assert afresh.manifest == found.manifest


def test_damage_is_named_when_it_is_met(folders: Path, tmp_path: Path) -> None:
    out = prepared(folders, tmp_path / "out")
    flip_a_byte(out / "train_00000.shard")
    images = load(out).train_images
    assert isinstance(images, Originals)
    with pytest.raises(DataError, match=r"mine, train: image \d+ is damaged in its shard 0"):
        files_of(images)
    with pytest.raises(DataError, match=r"train_00000\.shard is damaged: its sha256"):
        load(out, verify=True)


def test_a_missing_shard_is_named(folders: Path, tmp_path: Path) -> None:
    out = prepared(folders, tmp_path / "out")
    (out / "test_00000.shard").unlink()
    with pytest.raises(DataError, match=r"test_00000\.shard is missing"):
        load(out)


def test_test_images_with_the_bytes_of_a_training_image_are_counted(
    folders: Path, tmp_path: Path
) -> None:
    source = folders / "train" / CLASSES[1] / f"{CLASSES[1]}_3.JPEG"
    shutil.copy(source, folders / "val" / CLASSES[0] / "again.JPEG")
    said: list[str] = []
    out = prepared(folders, tmp_path / "out", said)
    assert json.loads((out / "sources.json").read_text())["duplicates"] == 1
    assert "mine: 1 test images have the bytes of a training image" in said


def test_a_change_of_folders_or_archives_is_noticed(folders: Path, tmp_path: Path) -> None:
    packed = archives(folders, tmp_path / "packed")
    for place, name in ((folders, f"train/{CLASSES[0]}/more.JPEG"), (packed, None)):
        facts, out = data(place).data_set, prepared(place, tmp_path / f"out-{place.name}")
        assert outdated(facts, out) == ""
        if name:
            (place / name).write_bytes(encoded(picture(5)))
        else:
            with tarfile.open(place / "ILSVRC2012_img_val.tar", "a") as tar:
                tar.add(folders / f"train/{CLASSES[0]}/more.JPEG", "more.JPEG")
        assert "has changed since" in outdated(facts, out)


def test_a_set_of_two_parts_is_one_row_of_images(folders: Path, tmp_path: Path) -> None:
    found: Prepared = load(prepared(folders, tmp_path / "out"))
    whole = chosen(
        (found.train_images, np.array([4, 2, 17])), (found.test_images, np.array([5, 0]))
    )
    train, test = files_of(found.train_images), files_of(found.test_images)
    wanted = [train[4], train[2], train[17], test[5], test[0]]
    assert [whole.encoded(i).tobytes() for i in range(5)] == wanted
    some = whole[np.array([3, 0, 1, 4])]
    assert [some.encoded(i).tobytes() for i in range(4)] == [wanted[i] for i in (3, 0, 1, 4)]
    assert some.sizes(np.array([2, 0])).tolist() == whole.sizes(np.array([1, 3])).tolist()
    with pytest.raises(IndexError):
        whole.encoded(5)


def test_squares_keep_their_manifest_to_the_byte() -> None:
    """Whatever originals need more leaves no trace where images are stored as squares."""
    keys = Manifest.model_fields.keys()
    assert [key for key in keys if Manifest.model_fields[key].exclude_if] == ["skipped"]


KILLS = 20


@pytest.mark.slow
def test_killed_twenty_times_it_gives_the_same_checksums(tmp_path: Path) -> None:
    """By SIGKILL at any moment; what is whole by then is not decoded again."""
    folders = class_folders(tmp_path / "images", train=80, val=10)
    undisturbed = tree(prepared(folders, tmp_path / "undisturbed"))
    # Copies of this process, which has torch loaded: a life is a tenth of a second, not four.
    forked = multiprocessing.get_context("fork")
    killed = 0
    while killed < KILLS:
        child = forked.Process(target=prepared, args=(folders, tmp_path / "out"))
        child.start()
        child.join(0.02 + 0.01 * killed)
        if child.is_alive():
            child.kill()
            child.join()
        elif (tmp_path / "out").exists():
            shutil.rmtree(tmp_path / "out")
        killed += child.exitcode == -signal.SIGKILL
    assert tree(prepared(folders, tmp_path / "out")) == undisturbed
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
