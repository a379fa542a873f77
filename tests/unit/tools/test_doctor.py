"""The doctor's checks on constructed machines."""

import subprocess
from pathlib import Path

import pytest
from small_data import write_image

from barlow_atlas.data.catalog import CATALOG, class_folder
from barlow_atlas.data.preparation import prepare
from barlow_atlas.study.file import load_study
from barlow_atlas.study.models import Resources
from barlow_atlas.tools import doctor
from barlow_atlas.tools.doctor import Check

ROOT = Path(__file__).parents[3]
SINFO = "cpu*|infinite|(null)\ngpu|1-00:00:00|gpu:a100:4(S:0-1)\nshort|30:00|gpu:2\n"


def asked(gpu: int = 0, runtime: int = 60) -> list[Resources]:
    return [Resources(gpu=gpu, mem_mb=1000, runtime=runtime), Resources(mem_mb=1, runtime=1)]


def levels(checks: list[Check]) -> list[str]:
    return [check.level for check in checks]


def test_versions_are_compared_with_pyproject() -> None:
    project = {"requires-python": ">=3.11", "dependencies": ["torch>=2.11", "dvc>=3.67,<4"]}
    there = {"torch": "2.13.0+cpu", "dvc": "3.67.1"}
    (fine,) = doctor.check_versions(project, there.get)
    assert fine.level == "ok"
    assert "torch 2.13.0+cpu" in fine.told
    old, absent = doctor.check_versions(project, {"torch": "2.10.0"}.get)
    assert levels([old, absent]) == ["missing", "missing"]
    assert "2.10.0" in old.told
    assert old.remedy == "pip install 'torch>=2.11'"
    assert "is not installed" in absent.told


def test_a_python_that_is_too_old_is_missing() -> None:
    first, *_ = doctor.check_versions({"requires-python": ">=4", "dependencies": []}, {}.get)
    assert (first.level, first.what) == ("missing", "python")


def test_the_dvc_remote(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("[core]\n    analytics = false\n")
    assert doctor.check_dvc([config]).level == "warning"
    config.write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = /mnt/store\n")
    found = doctor.check_dvc([config, tmp_path / "absent"])
    assert (found.level, found.told) == ("ok", "remote store: /mnt/store")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert doctor.check_writable(tmp_path / "a" / "b").level == "ok"
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    blocked = doctor.check_writable(tmp_path / "file" / "results")
    assert blocked.level == "missing"
    assert "chmod" in blocked.remedy


@pytest.mark.parametrize(
    ("needed", "level"), [(10**9, "ok"), (95 * 10**8, "warning"), (2 * 10**10, "missing")]
)
def test_room(needed: int, level: str) -> None:
    found = doctor.room(needed, free=10**10)
    assert found.level == level
    assert "10 GB free" in found.told


def test_data_prepared_raw_mirrored_downloadable_or_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cifar = CATALOG["cifar10"]
    download = doctor.check_data(cifar, ())
    assert download.level == "warning"
    assert "will be downloaded (170 MB) from https://" in download.told
    assert "results/data/raw" in download.remedy
    mirror = tmp_path / "mirror"
    (mirror / "cifar-10-batches-py").mkdir(parents=True)
    assert doctor.check_data(cifar, (str(mirror),)).level == "ok"
    assert doctor.check_data(cifar, (mirror.as_uri(),)).level == "ok"
    assert "at https://host/x" in doctor.check_data(cifar, ("HTTPS://me:s3cret@host/x",)).told
    for place, fault in (("s3://me:s3cret@b/x", "scheme s3"), ("http://me:s3cret#@h", "no URL")):
        refused = doctor.check_data(cifar, (place,))
        assert refused.level == "warning"
        assert fault in refused.told
        assert "s3cret" not in refused.told
    (tmp_path / "results/data/raw").mkdir(parents=True)
    (tmp_path / "results/data/raw/cifar-10-python.tar.gz").write_text("")
    assert "results/data/raw" in doctor.check_data(cifar, ()).told
    assert doctor.check_data(CATALOG["digits"], ()).level == "ok"
    own = class_folder("birds", str(tmp_path / "birds"), 32)
    assert doctor.check_data(own, ()).level == "missing"
    (tmp_path / "birds").mkdir()
    assert doctor.check_data(own, ()).level == "missing"  # nothing could be prepared of it
    (tmp_path / "results/data/cifar10").mkdir()
    (tmp_path / "results/data/cifar10/manifest.json").write_text("{")
    damaged = doctor.check_data(cifar, ())
    assert damaged.level == "missing"
    assert "dvc checkout" in damaged.remedy


def test_class_folders_before_and_after_they_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(("train/a", "train/b", "test/a", "test/b") * 6):
        write_image(tmp_path / f"birds/{name}/{place}.png", 8, seed=place % 23)
    (tmp_path / "birds/train/a/notes.txt").touch()
    own = class_folder("birds", str(tmp_path / "birds"), 8)
    before = doctor.check_data(own, ())
    assert (before.level, before.what) == ("ok", "data")
    assert before.told.endswith("birds: 24 images, left out: 1 no image (.txt)")
    prepare(own, tmp_path / "results/data/birds", tmp_path / "raw")
    after = doctor.check_data(own, ())
    assert after.level == "ok"
    left_out, repeated = "; left out: 1 no image (.txt)", "; 1 test images have the pixels of a tr"
    assert left_out + repeated in after.told
    (tmp_path / "birds/train/a/0.png").unlink()
    changed = doctor.check_data(own, ())
    assert changed.level == "warning"
    assert "23 images, 24 were prepared" in changed.told
    assert "Remove results/data/birds to prepare it again" in changed.told


def test_a_linked_folder_of_results_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "reports").mkdir()
    Path("results").symlink_to("disk")
    (found,) = doctor.check_links((Path("results"), Path("reports"), Path("nothing")))
    assert (found.level, found.what) == ("warning", "dvc")
    assert "results/ is a link to disk: Snakemake works through it, DVC refuses" in found.told
    assert f"mount --bind {tmp_path / 'disk'} results" in found.remedy


def test_gpus() -> None:
    assert doctor.gpus(0, 0, "").level == "ok"
    assert doctor.gpus(1, 1, "NVIDIA A100").level == "ok"
    assert doctor.gpus(2, 1, "NVIDIA A100").level == "missing"
    cpu = doctor.gpus(1, 0, "")
    assert cpu.level == "warning"
    assert "will run on the CPU" in cpu.told


def test_several_nodes_are_more_than_a_machine() -> None:
    assert doctor.nodes(1) == []
    (check,) = doctor.nodes(2)
    assert check.level == "missing"
    assert "--profile slurm" in str(check)


def test_a_job_larger_than_the_machine() -> None:
    assert doctor.machine(1000, 2, memory_mb=4000, cores=2).level == "ok"
    assert doctor.machine(16000, 2, memory_mb=4000, cores=2).what == "memory"
    assert doctor.machine(1000, 8, memory_mb=4000, cores=2).what == "cores"


def test_partitions() -> None:
    (default,) = doctor.partitions(SINFO, None, asked(runtime=5000), "missing")
    assert default == Check("ok", "partition", "cpu allows any time, jobs ask for up to 5000")
    _, no_gpu = doctor.partitions(SINFO, None, asked(gpu=1), "missing")
    assert no_gpu.level == "missing"
    assert no_gpu.remedy == "take a partition with GPUs: gpu, short"
    assert levels(list(doctor.partitions(SINFO, "gpu", asked(gpu=4), "missing"))) == ["ok", "ok"]
    late, too_many = doctor.partitions(SINFO, "short", asked(gpu=3, runtime=60), "missing")
    assert "short allows 30 min, a job asks for 60 min" in late.told
    assert too_many.remedy == "take a partition with GPUs: gpu"
    (absent,) = doctor.partitions(SINFO, "gpus", asked(), "missing")
    assert absent.told == "there is no partition gpus; here are: cpu, gpu, short"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("30:00", 30),
        ("02:00:00", 120),
        ("1-02:00:00", 1560),
        ("2-00", 2880),
        ("infinite", None),
        ("n/a", None),
    ],
)
def test_slurms_times(limit: str, expected: float | None) -> None:
    assert doctor.minutes(limit) == expected


@pytest.mark.parametrize(
    ("gres", "count"),
    [("(null)", 0), ("gpu:2", 2), ("gpu:a100:4(S:0-1),nvme:1", 4), ("gpu:a:1,gpu:b:2", 3)],
)
def test_gpus_of_a_node(gres: str, count: int) -> None:
    assert doctor.gpus_in(gres) == count


def test_accounts() -> None:
    assert doctor.accounts(["a", "b"], "a", "missing").level == "ok"
    assert doctor.accounts(None, "a", "missing").level == "warning"
    wrong = doctor.accounts(["a", "b"], "c", "missing")
    assert (wrong.level, wrong.told) == ("missing", "c is none of yours: a, b")


def test_slurm_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (silent,) = doctor.check_slurm({}, asked(), "missing")
    assert silent.level == "missing"
    assert silent.told == "sbatch does not answer: it is not installed"
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho first >&2\necho no controller >&2\nexit 1\n")
    sbatch.chmod(0o755)
    (refused,) = doctor.check_slurm({}, asked(), "warning")
    assert (refused.level, refused.told) == ("warning", "sbatch does not answer: no controller")


def test_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert doctor.read_profile("slurm") == doctor.read_profile("profiles/slurm")
    assert doctor.read_profile("local")["submitit-cluster"] == "local"
    with pytest.raises(
        doctor.DoctorError, match=r"no profile at slrm. Known in profiles/: .*slurm"
    ):
        doctor.read_profile("slrm")
    listed = {"default-resources": ["mem_mb=4000", "slurm_partition='gpu'"]}
    assert doctor.default_resource(listed, "slurm_partition") == "gpu"
    assert doctor.default_resource({"default-resources": {"mem_mb": 1}}, "mem_mb") == "1"
    assert doctor.default_resource({}, "slurm_partition") is None


def test_one_line_a_check_and_the_remedy_below() -> None:
    lines = list(doctor.table([Check("ok", "disk", "room"), Check("missing", "gpu", "0", "x")]))
    assert lines == [
        "ok       disk       room",
        "missing  gpu        0",
        f"{'':19} -> x",
    ]


def test_the_demo_can_run_here_and_what_lacks_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(Path("params/demo.yaml"))
    told: list[str] = []
    assert doctor.examine("demo", study, "profiles/local", told.append) == 0
    assert told[-1] == "demo can run here"

    def refuse(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("sbatch", 1)

    monkeypatch.setattr(doctor.subprocess, "run", refuse)
    monkeypatch.setattr(doctor, "check_git", lambda: Check("ok", "git", ""))
    assert doctor.examine("demo", study, "slurm", told.append) == 1
    assert told[-1] == "1 missing"
