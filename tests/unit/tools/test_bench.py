"""The benchmarks: a rival that computes the same, right clocks, and ratios that are compared."""

import csv
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from barlow_atlas.__main__ import main
from barlow_atlas.nn.devices import device_for
from barlow_atlas.nn.optim import learning_rate
from barlow_atlas.nn.randomness import generator
from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.study.models import Run
from barlow_atlas.tools import bench
from barlow_atlas.tools.bench import (
    accuracy,
    augmenting,
    baseline,
    neighbours,
    objective,
    operations,
    photographs,
    scaling,
    startup,
)
from barlow_atlas.tools.bench.apart import Apart
from barlow_atlas.tools.bench.images import comparison, demo
from barlow_atlas.tools.bench.memory import peak_and_bound
from barlow_atlas.tools.bench.records import (
    KEPT,
    BenchError,
    Record,
    Report,
    alone,
    faster,
    markdown,
    more,
    not_measured,
    read,
    regressions,
    report,
)
from barlow_atlas.tools.bench.scaling import Point, Sizes
from barlow_atlas.tools.bench.startup import Copy, until_first_epoch
from barlow_atlas.tools.bench.timing import PHASES, Phases, by_turns, on_cores, peak_memory
from barlow_atlas.tools.bench.training import against_plain, methods_records, trained
from barlow_atlas.training.loop import initial_state

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


# The rival computes what the package computes


@pytest.mark.parametrize("method", ["bt", "mix"])
@pytest.mark.parametrize(("n", "d"), [(32, 8), (16, 100)])
def test_both_objectives_have_one_value_and_one_gradient(method: str, n: int, d: int) -> None:
    settings = demo(method).settings
    assert isinstance(settings, BarlowTwins)
    ours, explicit = (each() for each in objective.contestants(settings, n, d, CPU))
    assert len(ours) == 1 + (3 if method == "mix" else 2) * n * d
    assert ours[0].item() == pytest.approx(explicit[0].item(), rel=1e-4)
    assert (ours - explicit)[1:].norm() < 1e-3 * explicit[1:].norm()


def test_the_rivals_twin_loss_is_the_published_one() -> None:
    """From numpy's own correlations of embeddings scaled to length 1."""
    settings = demo("bt").settings
    assert isinstance(settings, BarlowTwins)
    n, d = 40, 7
    z_a, z_b = np.random.default_rng(1).normal(size=(2, n, d))
    scaled = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b)]
    c = np.corrcoef(*scaled, rowvar=False)[:d, d:] * (n - 1) / n
    expected = 0.0
    for i in range(d):
        for j in range(d):
            expected += (c[i, j] - 1) ** 2 if i == j else settings.lambda_bt * c[i, j] ** 2
    found = baseline.twin_loss(
        settings, *(baseline.standardised(torch.from_numpy(z)) for z in (z_a, z_b))
    )
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_rival_starts_from_the_same_network_in_the_usual_layout(
    tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    rival = baseline.Rival(tiny_run, digits[0][:64], CPU)
    state = initial_state(tiny_run, CPU)
    views = torch.randn(32, 3, 8, 8, generator=generator(0, "test"))
    torch.testing.assert_close(rival.network(views), state.network(views), rtol=1e-4, atol=1e-5)
    kernels = [p for p in rival.network.parameters() if p.dim() == 4]
    assert all(kernel.is_contiguous() for kernel in kernels)


def test_a_step_of_the_rival_follows_the_schedule_and_learns(
    tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    run = tiny_run.model_copy(update={"compiled": True})
    rival = baseline.Rival(run, digits[0][:200], CPU)
    steps = rival.steps()
    losses = [next(steps).item() for _ in range(40)]
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
    # 200 // 32 = 6 steps an epoch: the 40th is step 3 of epoch 6.
    expected = learning_rate(run, 6, 3, 6)
    assert [group["lr"] for group in rival.optimizer.param_groups] == [expected]


def test_per_image_views_are_the_packages_views(
    tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images = digits[0][:800]
    run = tiny_run.model_copy(update={"batch_size": 800})
    (plain, _) = next(iter(baseline.loader(run, images, CPU)))
    from barlow_atlas.nn import views

    recipe = run.recipe
    drawn = views.draw(recipe.view_a, 800, 8, 8, generator(0, "test"))
    ours = views.apply(torch.from_numpy(images), drawn, recipe.view_a, 8, recipe.mean, recipe.std)
    assert plain.shape == ours.shape
    # Two samples of 800 views each: their means are equal within a few standard errors.
    each = [view.mean((1, 2, 3)) for view in (plain, ours)]
    error = (sum(view.var() for view in each) / 800) ** 0.5
    assert abs(each[0].mean() - each[1].mean()) < 4 * error
    spread = [view.std((1, 2, 3)).mean().item() for view in (plain, ours)]
    assert spread[0] == pytest.approx(spread[1], rel=0.05)


def test_a_view_that_changes_nothing_is_the_normalised_image(
    tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    still = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "jitter_p": 0.0}
    view = tiny_run.recipe.view_a.model_copy(update=still)
    recipe = tiny_run.recipe.model_copy(update={"view_a": view, "view_b": view})
    pairs = baseline.Pairs(tiny_run.model_copy(update={"recipe": recipe}), digits[0][:5])
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (recipe.mean, recipe.std))
    for place in range(5):
        expected = (torch.from_numpy(digits[0][place]) / 255 - mean) / std
        for found in pairs[place]:
            torch.testing.assert_close(found, expected)


def test_transforms_come_in_the_recipes_order(tiny_run: Run) -> None:
    kinds = torchvision.transforms
    view = tiny_run.recipe.view_a.model_copy(update={"flip_p": 0.5, "grayscale_p": 0.2})
    crop = [kinds.RandomResizedCrop, kinds.RandomHorizontalFlip]
    colour = [kinds.RandomApply, kinds.RandomGrayscale]
    end = [kinds.ToTensor, kinds.Normalize]
    for last, expected in ((False, crop + colour + end), (True, colour + crop + end)):
        drawn = view.model_copy(update={"crop_last": last})
        assert [type(each) for each in baseline.transform(drawn, tiny_run).transforms] == expected
    with pytest.raises(ValueError, match="no blur"):
        baseline.transform(view.model_copy(update={"blur_p": 0.5}), tiny_run)


def test_one_hot_votes_are_counted_by_hand() -> None:
    draws = generator(0, "test")
    memory, queries = (torch.randn(n, 5, generator=draws) for n in (30, 600))
    labels = torch.randint(3, (30,), generator=draws)
    found = baseline.one_hot_scores(memory, labels, queries, 4, 0.5, 3)
    assert found.shape == (600, 3)
    for query in (0, 511, 512, 599):
        q = queries[query].numpy()
        m = memory.numpy()
        cosines = m @ q / np.linalg.norm(m, axis=1) / np.linalg.norm(q)
        expected = np.zeros(3)
        for row in np.argsort(-cosines)[:4]:
            expected[labels[row]] += np.exp(cosines[row] / 0.5)
        np.testing.assert_allclose(found[query], expected, rtol=1e-5)


def test_the_rival_refuses_other_methods(digits: tuple[np.ndarray, np.ndarray]) -> None:
    other = next(run for run in comparison() if run.method == "simclr")
    with pytest.raises(ValueError, match="BT and MIX"):
        baseline.Rival(other, digits[0], CPU)


# A process of its own


class Contestant:
    """Tells how its process is set, and starts a worker as a DataLoader does."""

    def __init__(self) -> None:
        self.worker = get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
        self.worker.start()

    def setting(self) -> dict[str, object]:
        return {
            "processes": [os.getpid(), self.worker.pid],
            "cores": os.sched_getaffinity(0),
            "threads": torch.get_num_threads(),
            "denormal": (torch.tensor([1e-40]) * 0.5).item(),
        }

    def fail(self) -> None:
        raise RuntimeError("as asked")

    def vanish(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def state(pid: int) -> str:
    """The letter of a process's state in /proc: S sleeping, T stopped, Z ended; X if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def test_a_contestant_apart_has_our_cores_and_not_our_settings() -> None:
    device_for("cpu", torch.get_num_threads())
    try:
        with on_cores(1), Apart(Contestant) as contestant:
            found = contestant.call("setting")
            assert found["cores"] == os.sched_getaffinity(0)
            assert found["threads"] == len(found["cores"]) == 1
            # Sets ours to zero.
            assert (torch.tensor([1e-40]) * 0.5).item() == 0
            assert found["denormal"] > 0
            assert os.getpid() not in found["processes"]
            assert contestant.call("setting") == found
    finally:
        torch.set_flush_denormal(False)


def test_a_contestant_is_stopped_between_its_turns_and_ends_with_its_workers() -> None:
    def interrupted() -> None:
        with Apart(Contestant) as contestant:
            processes.extend(contestant.call("setting")["processes"])
            wait_until(lambda: [state(pid) for pid in processes] == ["T", "T"])
            raise KeyboardInterrupt

    processes: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    wait_until(lambda: all(state(pid) in "ZX" for pid in processes))


@pytest.mark.parametrize(("method", "status"), [("fail", "1"), ("vanish", "-9")])
def test_a_contestant_that_ends_is_reported(method: str, status: str) -> None:
    with (
        Apart(Contestant) as contestant,
        pytest.raises(BenchError, match=f"status {status} instead of answering `{method}`"),
    ):
        contestant.call(method)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_cores_are_given_back_by_every_thread() -> None:
    torch.set_num_threads(2)
    try:
        before = os.sched_getaffinity(0)
        torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # starts torch's threads
        with on_cores(1):
            assert torch.get_num_threads() == 1
            assert affinities() == {frozenset([min(before)])}
        assert affinities() == {frozenset(before)}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def affinities() -> set[frozenset[int]]:
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    return {frozenset(os.sched_getaffinity(thread)) for thread in threads}


# Clocks and memory


def test_contestants_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    pauses = {"a": iter([0.2, 0.01, 0.01, 0.01]), "b": iter([0.0, 0.03, 0.03, 0.3])}

    def contestant(name: str) -> None:
        calls.append(name)
        time.sleep(next(pauses[name]))

    first, second = by_turns([partial(contestant, name) for name in "ab"], CPU, 3)
    assert "".join(calls) == "abababab"
    assert 0.01 <= first < 0.1
    assert 0.03 <= second < 0.2


def test_peak_memory_is_that_of_the_worst_moment() -> None:
    kilobyte = 256  # float32

    def work() -> Tensor:
        first = torch.zeros(1000 * kilobyte)
        second = first + 1  # 2 MB here
        del first
        return second + second  # and here

    before = torch.zeros(5000 * kilobyte)
    peak = peak_memory(work, CPU)
    assert 2 * 1024_000 <= peak < 2.1 * 1024_000
    assert len(before) == 5000 * kilobyte


def test_peak_memory_sees_temporaries_inside_of_an_operation() -> None:
    x = torch.randn(64, 512, generator=generator(0, "test"))
    # The distances of all pairs, and at least once as much to compute them from.
    assert peak_memory(lambda: torch.cdist(x, x).sum(), CPU) > 64 * 64 * 4


class Slow(BarlowTwins):
    """Barlow Twins with a pause in the objective."""

    def prepare(self, z: Tensor) -> Tensor:
        time.sleep(0.04)  # once for both views
        return super().prepare(z)


def test_each_phase_gets_its_own_time(tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]) -> None:
    slow = Slow(objective="barlow_twins", lambda_bt=0.01)
    run = tiny_run.model_copy(update={"settings": slow, "method": "slow"})
    state, steps = trained(run, digits[0][:128], CPU)
    state.network.backbone.register_forward_hook(lambda *_: time.sleep(0.01))

    def step() -> None:
        time.sleep(0.06)
        next(steps)

    watch = Phases(CPU)
    began = time.perf_counter()
    with watch.watching(state.network, state.optimizer):
        for _ in range(3):
            watch.step(step)
    spent = (time.perf_counter() - began) / 3
    mean = watch.mean()
    assert tuple(mean) == PHASES
    assert sum(mean.values()) == pytest.approx(spent, rel=0.02)
    assert mean["views"] > 0.06
    assert mean["objective"] > 0.04
    assert mean["forward and backward"] > 2 * 0.01
    assert 0 < mean["optimizer"] < spent - 0.12
    # Nothing is watched any more.
    next(steps)
    assert watch.steps == 3
    assert watch.mean() == mean


@pytest.mark.parametrize("method", ["bt", "mix"])
def test_training_stays_within_its_memory(method: str) -> None:
    peak, bound = peak_and_bound(demo(method, batch_size=32), CPU)
    assert 0.5 * bound < peak <= bound


# Records, pages, comparisons


def a_report(*records: Record, **changes: object) -> Report:
    return report(records, CPU, "python -m barlow_atlas bench").model_copy(update=changes)


def test_ratios_say_how_many_times_better() -> None:
    assert faster("a/b", (0.5, 2.0), "", target=3).ratio == 4
    assert faster("a/b", (0.5, 2.0), "", target=3).met is True
    assert more("a/b", "images/s", (90, 100), "", target=0.95).ratio == 0.9
    assert more("a/b", "images/s", (90, 100), "", target=0.95).met is False
    assert alone("a/b", "s", 6.5, "", at_most=6).met is False
    assert not_measured("a/b", "s", 6, "").met is None


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = a_report(faster("a/b", (1 / 3, 2.0), "s", 3), not_measured("a/c", "min", 90, "none"))
    file = tmp_path / "report.json"
    file.write_text(written.to_json())
    assert read(file) == written
    rows = json.loads(file.read_text())["records"]
    assert [row["name"] for row in rows] == ["a/b", "a/c"]
    assert sum('"name":' in line for line in file.read_text().splitlines()) == 2
    file.write_text("{}")
    with pytest.raises(BenchError, match="is not a report"):
        read(file)


def test_the_page_shows_every_record() -> None:
    page = markdown(
        a_report(
            faster("a/fast", (1.0, 5.0), "how it was", 3),
            faster("a/slow", (1.0, 2.0), "how it was", 3),
            not_measured("b/other", "min", 90, "no GPU here"),
        )
    )
    assert "| fast | 1 s | 5 s | 5 | at least 3 | yes |" in page
    assert "| slow | 1 s | 2 s | 2 | at least 3 | **no** |" in page
    assert "| other | not measured |  |  | wanted: 90 |  |" in page
    assert "fast, slow: how it was." in page
    assert page.index("## a") < page.index("## b")


def test_a_fallen_ratio_is_named_and_a_slow_machine_is_not() -> None:
    committed = a_report(faster("a/x", (1.0, 10.0), ""), faster("b/y", (1.0, 10.0), ""))
    slow_machine = a_report(faster("a/x", (9.0, 90.0), ""), faster("b/y", (7.0, 70.0), ""))
    assert regressions(slow_machine, committed, ["a", "b"]) == []
    noise = a_report(faster("a/x", (1.0, 10 * KEPT + 0.1), ""))
    assert regressions(noise, committed, ["a"]) == []
    worse = a_report(faster("a/x", (1.0, 10 * KEPT - 0.1), ""))
    (line,) = regressions(worse, committed, ["a"])
    assert line.startswith("a/x: ratio 6.9")
    (line,) = regressions(noise, committed, ["a", "b"])
    assert line == "b/y: was 10, is no longer measured"


def test_ratios_of_different_devices_are_not_compared() -> None:
    with pytest.raises(BenchError, match="ratios on cpu cannot be compared with ratios on H200"):
        regressions(a_report(), a_report(device="H200"), [])


# The benchmarks themselves, at sizes that take no time


def test_small_benchmarks_measure_what_they_say() -> None:
    told = list(objective.records(CPU, n=16, widths=(32,), rounds=1))
    assert [one.name for one in told] == [
        "objective/mix d=32",
        "objective/mix d=32 memory",
        "objective/bt d=32",
        "objective/bt d=32 memory",
    ]
    assert told[0].target is None
    assert objective.TARGETS == {1024: 5, 8192: 15}
    knn = neighbours.records(CPU, 400, 600, 16, k=20, rounds=1)
    time_, products, memory, ranked, same, *searches = knn
    assert searches[0].name == "knn/search beside scikit-learn"
    assert products.target is None
    assert (time_.target, memory.target) == (3, 10)
    assert (ranked.ours, ranked.ratio) == (600, 1)
    assert ranked.met
    assert same.met
    for views in augmenting.records(CPU, batch_size=16, batches=2, rounds=1):
        assert views.ours
        assert views.baseline
        assert views.target == 10
    assert views.name == "views/cifar10, all cores"


def test_the_time_of_a_step_is_told_by_kind_of_operation(tiny_run: Run) -> None:
    *spent, convolutions, products = operations.records(CPU, {"tiny": (tiny_run, 2)}, rounds=1)
    assert [one.name for one in spent] == [f"operations/tiny: {kind}" for kind in operations.KINDS]
    assert all(one.ours for one in spent)
    for one in (convolutions, products):
        assert one.ratio is not None
        assert one.ratio > 0


def test_photographs_are_compared_with_image_folder() -> None:
    prepared, *compared = photographs.records(CPU, count=12, rounds=1)
    assert prepared.ours
    assert [(each.name, each.target) for each in compared] == [
        (f"photographs/{what}, {on}", target)
        for on in ("one core", "all cores")
        for what, target in (("crops", 2), ("views", 5))
    ]
    assert all(each.ours and each.baseline for each in compared)


def test_training_is_compared_on_one_core_and_on_a_cpu_not_in_bfloat16(
    tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    found = against_plain("tiny", tiny_run, digits[0][:64], CPU, on=1, rounds=1, target=3)
    training, ceiling, *split = list(found)
    assert (training.name, training.target) == ("tiny/training", 3)
    assert "2 steps, 1 core; yardstick" in training.settings
    assert ceiling.name == "tiny/beside the network alone"
    assert [one.name for one in split] == [f"tiny/{phase}" for phase in PHASES]
    assert all(one.ours is not None and one.baseline is not None for one in split)


def test_every_method_is_measured() -> None:
    found = {one.name: one for one in methods_records(CPU, images=256, rounds=1)}
    assert [name for name in found if ":" not in name] == [
        f"methods/{run.method}" for run in comparison()
    ]
    for run in comparison():
        split = [found[f"methods/{run.method}: {phase}"].ours for phase in PHASES]
        assert all(spent is not None and spent > 0 for spent in split)
    assert len(found) == 9 * (1 + len(PHASES))


def test_both_paths_train_and_are_compared() -> None:
    bt, mix = accuracy.records(CPU, epochs=1, seeds=(1, 2))
    assert (bt.name, mix.name) == ("accuracy/bt", "accuracy/mix")
    assert all(one.ours and one.baseline and one.ours > 20 for one in (bt, mix))


def test_the_interval_is_students() -> None:
    # t(0.975; 2) = 4.303 of the tables; the standard deviation of 1, 2, 3 is 1.
    assert accuracy.half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5, rel=1e-4)


def test_a_power_law_is_found() -> None:
    row = [Point("law", "ours", x, 3 * x**1.5, "N", "s") for x in (2, 8, 32)]
    assert scaling.exponent(row) == pytest.approx(1.5)
    (record,) = scaling.records(row)
    assert (record.name, record.ours) == ("scaling/law", 1.5)
    assert "2 to 32 N" in record.settings


def test_scaling_is_tabled_the_same_each_time(tmp_path: Path) -> None:
    found = [
        Point(law, series, x, x * factor, "N", "s")
        for law in ("one", "two", "three")
        for series, factor in (("ours", 1.0), ("bound", 2.0))
        for x in (1, 10, 100)
    ]
    scaling.save(found, tmp_path / "a.csv")
    scaling.save(found, tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "one,ours,1,1,N,s"


def test_memory_and_steps_are_measured_at_every_size() -> None:
    sizes = Sizes((16, 32), (16, 32), (8, 16), (128, 256), (16, 32), (), (), (1, 2), rounds=1)
    sizes_seen: dict[str, list[float]] = {}
    for point in scaling.points(CPU, sizes):
        assert point.cost > 0
        sizes_seen.setdefault(f"{point.law}, {point.series}", []).append(point.size)
    assert sizes_seen["step against batch size, ours"] == [16, 32]
    assert sizes_seen["epoch against data set, ours"] == [128, 256]
    assert sizes_seen["objective against embedding width, d x d matrices"] == [16, 32]
    assert sizes_seen["memory of a step, bound"] == [16, 32]
    assert sizes_seen["step against processes, ours"] == [1, 2]


def test_the_first_training_line_stops_the_clock(tmp_path: Path) -> None:
    copy = Copy.__new__(Copy)
    copy.folder, copy.environment = tmp_path, {"PATH": "/usr/bin:/bin"}
    log = tmp_path / "log"
    script = f"echo starts > {log}; sleep 0.3; echo '\"step\": 1' >> {log}; sleep 2"
    assert 0.3 <= until_first_epoch(copy, ("bash", "-c", script), log) < 2.3
    with pytest.raises(BenchError, match=r"did not train:\nno data"):
        until_first_epoch(copy, ("bash", "-c", "echo no data; exit 1"), log)


def test_a_job_of_the_demo_is_timed_to_its_first_epoch() -> None:
    records = list(startup.records(CPU, rounds=1))
    whole, torch_only, *parts = (record.ours for record in records)
    assert [record.name.partition("/")[2] for record in records] == [
        *("job", "torch's import in it", "inner Snakemake", "imports", "reading, first steps")
    ]
    assert whole is not None
    assert torch_only is not None
    assert sum(part or 0 for part in parts) == pytest.approx(whole, abs=0.01)
    assert 0 < torch_only < whole


# The command


def test_what_was_measured_before_a_failure_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(device: torch.device) -> Iterator[Record]:
        yield alone("memory/one", "MB", 1, "made")
        raise BenchError("no memory")

    def measured(name: str, ours: float) -> Callable[[torch.device], Iterator[Record]]:
        return lambda device: iter([alone(name, "s", ours, "made")])

    file = tmp_path / "report.json"
    monkeypatch.setattr(bench, "NAMES", ("knn", "memory", "startup"))
    monkeypatch.setitem(bench.BENCHMARKS, "knn", measured("knn/time", 2))
    monkeypatch.setitem(bench.BENCHMARKS, "startup", measured("startup/job", 4))
    assert main(["bench", "--device", "cpu", "--only", "startup", "--json", str(file)]) == 0
    monkeypatch.setitem(bench.BENCHMARKS, "memory", fails)
    assert main(["bench", "--device", "cpu", "--json", str(file)]) == 1
    assert "no memory" in capsys.readouterr().err
    assert {one.name: one.ours for one in read(file).all_records} == {
        "knn/time": 2,
        "startup/job": 4,
    }
    # A whole run leaves nothing of an earlier one.
    monkeypatch.setitem(bench.BENCHMARKS, "memory", measured("memory/one", 3))
    assert main(["bench", "--device", "cpu", "--json", str(file)]) == 0
    assert [(one.name, one.ours) for one in read(file).records] == [
        ("knn/time", 2),
        ("memory/one", 3),
        ("startup/job", 4),
    ]
    assert not read(file).later


def test_a_run_is_written_checked_and_found_wanting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = partial(neighbours.records, memory=400, queries=600, features=16, k=20, rounds=1)
    monkeypatch.setitem(bench.BENCHMARKS, "knn", small)
    file = tmp_path / "new/report.json"
    assert main(["bench", "--only", "knn", "--device", "cpu", "--json", str(file)]) == 0
    measured = read(file)
    assert [one.name for one in measured.records][::2][:2] == ["knn/time", "knn/memory"]
    assert file.with_suffix(".md").read_text() == markdown(measured)
    once_fast = [
        one if one.ratio is None else one.model_copy(update={"ratio": 1e6})
        for one in measured.records
    ]
    file.write_text(measured.model_copy(update={"records": once_fast}).to_json())
    capsys.readouterr()
    assert main(["bench", "--only", "knn", "--device", "cpu", "--check", str(file)]) == 1
    said = capsys.readouterr()
    assert "slower: knn/time: ratio" in said.err
    assert '"name":"knn/time"' in said.out


def test_single_benchmarks_join_an_earlier_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their records and origin alone are new; measured once more they replace themselves."""
    file = tmp_path / "performance.json"
    earlier = read(Path("benchmarks/performance.json"))
    file.write_text(earlier.to_json())
    for seconds in (2.0, 3.0):
        made = partial(faster, "knn/time", (seconds, 6.0), "made up")
        monkeypatch.setitem(bench.BENCHMARKS, "knn", lambda _, made=made: iter([made()]))
        bench.run(["knn"], CPU, file, None, "bench --only knn", lambda _: None)
    joined = read(file)
    assert joined.records == [one for one in earlier.records if one.benchmark != "knn"]
    assert [(one.name, one.ours) for one in joined.later[-1].records] == [("knn/time", 3.0)]
    assert len(joined.later) == len(earlier.later) + 1
    assert joined.model_dump(exclude={"records", "later"}) == earlier.model_dump(
        exclude={"records", "later"}
    )
    page = file.with_suffix(".md").read_text()
    assert page == markdown(joined)
    assert "Measured later, by `bench --only knn`" in page
    assert page.count("## knn") == 1


def test_an_unknown_benchmark_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--only", "speed"]) == 1
    assert "no benchmark speed: there are objective, views," in capsys.readouterr().err


# What is committed


def test_the_committed_page_and_table_belong_to_the_committed_report() -> None:
    folder = Path("benchmarks")
    committed = read(folder / "performance.json")
    assert (folder / "performance.md").read_text() == markdown(committed)
    measured = {one.benchmark for one in committed.all_records}
    assert measured == set(bench.NAMES)
    with (folder / "scaling.csv").open(newline="") as table:
        rows = [*csv.reader(table)][1:]
    found = [Point(a, b, float(c), float(d), e, f) for a, b, c, d, e, f in rows]
    fitted = {one.name: one.ours for one in scaling.records(found)}
    stored = {one.name: one.ours for one in committed.all_records if one.name in fitted}
    assert stored == pytest.approx(fitted, rel=1e-3)
