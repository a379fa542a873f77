"""The plan: which jobs, how long, how much room; and the cost model behind it."""

import json
from pathlib import Path

import pytest
import torch

from barlow_atlas.objectives import METHODS
from barlow_atlas.settings.training import Backbone
from barlow_atlas.store.snapshot import write_milestone
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import Run, Study
from barlow_atlas.tools import costs, plan
from barlow_atlas.tools.costs import Measurement, Sizes, Work
from barlow_atlas.training.loop import initial_state
from barlow_atlas.workflow.jobs import Job, jobs_of, stale_milestones, targets, to_run
from barlow_atlas.workflow.sources import fingerprint

ROOT = Path(__file__).parents[2]
GENEROUS = Work(100, 1e9, 1e6)


@pytest.fixture
def demo() -> Study:
    return load_study(ROOT / "params/demo.yaml")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    plan._sizes.cache_clear()
    return tmp_path


def measured(work: Work, seconds: float, **other: object) -> Measurement:
    about = {
        "what": "step",
        "study": "s",
        "run": f"r{work.ops}",
        "repeated": 3,
        "device": "cpu",
        "processor": costs.processor(),
        "threads": 1,
        "python": "3",
        "torch": "2",
        "date": "2026-01-01",
        "command": "c",
    }
    counts = {"ops": work.ops, "flops": work.flops, "bytes": work.bytes, "seconds": seconds}
    return Measurement.model_validate(about | counts | other)


# Counting


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_large_step_is_counted_without_computing_it(precision: str) -> None:
    """On torch's meta device; a real step takes minutes here."""
    for run in load_study(ROOT / "params/cifar10.yaml").trained()[::3]:
        asked = run.model_copy(update={"precision": precision, "embedding_dim": 8192})
        assert costs._footprint_on(asked, 32, costs.META).work.flops > 1e12


def test_a_step_is_counted_exactly(demo: Study) -> None:
    """A network of linear layers alone has FLOPs that a formula gives."""
    n, f, h, d = 128, 128, 128, 256
    one = {r.method: r for r in demo.trained()}
    base, mixed = (costs.footprint(one[name], 8).work.flops for name in ("bt", "mix"))
    # Mixing adds a third forward and backward pass: half of the two views' and its own products.
    assert 1.45 < mixed / base < 1.6
    wider = one["bt"].model_copy(update={"embedding_dim": 2 * d})
    more = costs.footprint(wider, 8).work.flops - base
    # 2 views x 3 products (forward, two gradients) of the last layer's d more columns; and for each
    # view an n x n product of them and its gradient.
    assert more == 2 * 3 * 2 * n * h * d + 2 * 2 * 2 * n * n * d
    assert f == h


def test_a_footprint_equals_what_a_real_step_leaves(demo: Study) -> None:
    run = demo.trained()[0]
    found = costs.footprint(run, 8)
    real = costs._footprint_on(run, 8, torch.device("cpu"))
    assert found.weights == real.weights
    assert found.state == pytest.approx(real.state, rel=1e-3)
    assert found.work.flops == real.work.flops
    assert found.work.bytes == pytest.approx(real.work.bytes, rel=0.2)


def test_seeds_and_lengths_share_a_footprint(demo: Study) -> None:
    a, b, *_ = demo.trained()
    assert a.seed != b.seed
    assert costs.footprint(a, 8) is costs.footprint(b, 8)


def test_every_method_is_counted_without_a_table(demo: Study) -> None:
    small = Backbone(name="small", stem="3x3", width=2)
    run = demo.trained()[0].model_copy(update={"backbone": small, "batch_size": 32})
    seen = set()
    for path in find_studies(ROOT / "params").values():
        for method in load_study(path).trained():
            if method.settings.objective in seen:
                continue
            try:
                method.settings.check(32, run.embedding_dim)
            except ValueError:
                continue
            seen.add(method.settings.objective)
            own = run.model_copy(update={"settings": method.settings, "method": "m"})
            assert costs.footprint(own, 8).work.flops > 0
    assert {"barlow_twins", "mixed_barlow_twins", "byol", "vicreg"} <= seen <= set(METHODS)


def test_probes_cost_more_with_more_images(demo: Study) -> None:
    run = demo.trained()[0]
    sizes = Sizes(1150, 1150, 288, 359, 10, 8)
    twice = Sizes(1150, 2300, 576, 718, 10, 8)
    one, two = (costs.probe_work(run, demo.probes, s) for s in (sizes, twice))
    assert 1.8 < two.flops / one.flops < 3
    published = load_study(ROOT / "params/demo.yaml").trained()[0]
    reference = published.model_copy(update={"protocol": "reference"})
    # Its linear probe looks through the backbone in each of 100 epochs.
    assert costs.probe_work(reference, demo.probes, sizes).flops > 20 * one.flops


# The rates


def test_the_fit_recovers_known_rates() -> None:
    true = costs.Rates(2e-6, 1e-11, 3e-10, 0.0, {})
    works = [Work(10**i, 10.0 ** (7 + j), 10.0 ** (6 + k)) for i, j, k in
             ((3, 1, 2), (3, 3, 1), (2, 4, 2), (4, 1, 1), (3, 2, 3), (2, 2, 4))]  # fmt: skip
    found = costs.fit([(work, true.fitted(work)) for work in works])
    assert found.op_s == pytest.approx(true.op_s, rel=1e-6)
    assert found.flop_s == pytest.approx(true.flop_s, rel=1e-6)
    assert found.byte_s == pytest.approx(true.byte_s, rel=1e-6)
    errors = costs.left_out_errors([(work, true.fitted(work)) for work in works])
    assert max(map(abs, errors)) < 1e-6


def test_rates_are_never_negative() -> None:
    found = costs.fit([(Work(100, 1e9, 1e6), 1.0), (Work(200, 1e9, 1e6), 0.5)])
    assert min(found.op_s, found.flop_s, found.byte_s) >= 0


def test_a_measured_shape_is_not_estimated() -> None:
    found = costs.rates([measured(GENEROUS, 7.0), measured(GENEROUS * 2, 1.0)])
    assert found.seconds(GENEROUS) == 7.0
    assert found.fitted(GENEROUS) != 7.0


def test_measurements_are_replaced_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    costs.append_measurements([measured(GENEROUS, 1.0), measured(GENEROUS * 2, 2.0)], file)
    costs.append_measurements([measured(GENEROUS, 3.0)], file)
    assert [one.seconds for one in costs.read_measurements(file)] == [3.0, 2.0]


def test_the_nearest_number_of_threads_speaks() -> None:
    known = [measured(GENEROUS, 1.0, threads=n) for n in (1, 4)]
    assert {one.threads for one in costs.measured_on(known, "cpu", 8)} == {4}
    assert {one.threads for one in costs.measured_on(known, "cpu", 2)} == {1}
    assert costs.measured_on(known, "NVIDIA A100", 2) == []


def test_the_committed_measurements_explain_each_other() -> None:
    known = costs.read_measurements(ROOT / costs.MEASUREMENTS)
    cpu = costs.measured_on(known, "cpu", 1)
    errors = costs.left_out_errors([(m.work, m.seconds) for m in cpu if m.what == "step"])
    assert len(errors) >= 4
    assert max(map(abs, errors)) < 0.5


# Which jobs


def counts(jobs: list[Job], running: set[Path]) -> dict[str, int]:
    rules = [job.rule for job in jobs if job.file in running]
    return {rule: rules.count(rule) for rule in dict.fromkeys(rules)}


def test_an_empty_folder_runs_everything(demo: Study, empty: Path) -> None:
    jobs = jobs_of("demo", demo)
    running = to_run(jobs, targets("demo", demo), {}, Path.is_file)
    assert counts(jobs, running) == {
        "prepare_data": 1,
        "pretrain": 36,
        "probe": 36,
        "collect": 1,
        "analyse": 1,
        "report_study": 1,
        "ledger": 1,
    }


def test_a_missing_file_that_nobody_waits_for_is_not_made(demo: Study) -> None:
    jobs = jobs_of("demo", demo)
    absent = next(job.file for job in jobs if job.rule == "pretrain" and job.epoch == 10)
    assert to_run(jobs, targets("demo", demo), {}, lambda file: file != absent) == set()


def test_what_follows_a_job_follows_it_again(demo: Study) -> None:
    jobs = jobs_of("demo", demo)
    first = next(job.file for job in jobs if job.rule == "pretrain" and job.epoch == 25)
    running = to_run(jobs, targets("demo", demo), {first: "other code"}, lambda _: True)
    assert counts(jobs, running) == {
        "pretrain": 3,
        "probe": 3,
        "collect": 1,
        "analyse": 1,
        "report_study": 1,
        "ledger": 1,
    }


def trained(study: Study, run: Run) -> None:
    """The run's milestones, untrained, as the study now chains them."""
    before = None
    weights = initial_state(run, torch.device("cpu")).network.state_dict()
    for job in jobs_of("demo", study):
        if job.rule != "pretrain" or job.run != run:
            continue
        before = write_milestone(
            job.file.parent,
            study="demo",
            run=run,
            epoch=job.epoch,
            parent=before,
            weights=weights,
            state=None,
            data_sha256="d",
            sources_sha256=fingerprint("pretrain", [type(run.settings)]),
            made_by={"device": "cpu", "seconds": 1.0},
        )


def test_an_inserted_milestone_is_named_and_later_ones_made_again(demo: Study, empty: Path) -> None:
    one = demo.model_copy(update={"seeds": (1,), "methods": {"bt": demo.methods["bt"]}})
    (run,) = one.trained()
    trained(one, run)
    assert stale_milestones("demo", jobs_of("demo", one)) == {}
    more = one.model_copy(update={"milestones": (0, 5, 10, 25, 50, 75, 100)})
    jobs = jobs_of("demo", more)
    stale = stale_milestones("demo", jobs)
    ((file, why),) = stale.items()
    assert file.stem == "epoch_0100"
    assert why == "trained from epoch_0050, the study now puts epoch_0075 between"
    # The data are here; an unprepared set would have everything made again.
    running = to_run(
        jobs, targets("demo", more), stale, lambda f: f.is_file() or f.name == "manifest.json"
    )
    again = [job.epoch for job in jobs if job.rule == "pretrain" and job.file in running]
    assert again == [75, 100]
    said = "\n".join(plan.describe("demo", more, 2))
    assert "trained from epoch_0050, the study now puts epoch_0075 between" in said
    assert "A milestone that is put between others makes the later ones be trained again" in said


def test_an_appended_milestone_makes_nothing_again(demo: Study, empty: Path) -> None:
    short = demo.model_copy(
        update={"seeds": (1,), "methods": {"bt": demo.methods["bt"]}, "milestones": (0, 50)}
    )
    trained(short, short.trained()[0])
    longer = short.model_copy(update={"milestones": (0, 50, 100)})
    assert stale_milestones("demo", jobs_of("demo", longer)) == {}


def test_changed_parameters_and_damage_are_named(demo: Study, empty: Path) -> None:
    one = demo.model_copy(update={"seeds": (1,), "methods": {"bt": demo.methods["bt"]}})
    (run,) = one.trained()
    trained(one, run)
    other = one.model_copy(update={"batch_size": 64})
    assert set(stale_milestones("demo", jobs_of("demo", other)).values()) == {
        "other parameters: batch_size"
    }
    files = [job.file for job in jobs_of("demo", one) if job.rule == "pretrain"]
    files[2].write_text("{")
    assert files[2] in stale_milestones("demo", jobs_of("demo", one))


# How long, how much


def line(n: int) -> list[Job]:
    files = [Path(str(i)) for i in range(n)]
    return [Job("pretrain", f, tuple(files[i - 1 : i])) for i, f in enumerate(files)]


def test_a_chain_is_not_made_faster_by_more_jobs() -> None:
    jobs = line(5)
    assert plan.wall_seconds(jobs, lambda _: 2.0, 1) == 10.0
    assert plan.wall_seconds(jobs, lambda _: 2.0, 9) == 10.0
    assert plan.longest_chain(jobs, lambda _: 2.0) == jobs


def test_independent_jobs_share_the_machine() -> None:
    jobs = [Job("probe", Path(str(i))) for i in range(10)]
    assert plan.wall_seconds(jobs, lambda _: 3.0, 4) == 9.0
    assert len(plan.longest_chain(jobs, lambda _: 3.0)) == 1


def test_a_gpu_that_is_not_measured_is_said_to_be(empty: Path) -> None:
    study = load_study(ROOT / "params/cifar10.yaml")
    said = "\n".join(plan.describe("cifar10", study, 8))
    assert "Time: unknown" in said
    assert "pretrain on GPU: not measured" in said
    assumed = "\n".join(plan.describe("cifar10", study, 8, tflops=10.0))
    assert "assumed 10 TFLOP/s and no other cost" in assumed
    assert "GPU hours" in assumed


def test_jobs_past_their_limits_are_named(demo: Study, empty: Path) -> None:
    work = costs.footprint(demo.trained()[0], 8).work
    costs.append_measurements([measured(work, 60.0)])
    said = "\n".join(plan.describe("demo", demo, 2))
    assert "expected to take longer than their runtime of 30 min" in said
    assert "a probe saves nothing on the way" in said
    small = demo.resources.pretrain.model_copy(update={"mem_mb": 100})
    tight = demo.model_copy(
        update={"resources": demo.resources.model_copy(update={"pretrain": small})}
    )
    assert "more than their 100 MB" in "\n".join(plan.describe("demo", tight, 2))


def test_storage_is_that_of_the_files(demo: Study, empty: Path) -> None:
    """One run's weights and states, and the committed probe files, within 5 % and 25 %."""
    run = demo.trained()[0]
    trained(demo, run)
    room = plan.storage_of(demo, jobs_of("demo", demo), 2)
    weights = sum(file.stat().st_size for file in Path("results").rglob("*.safetensors"))
    assert 6 * weights == pytest.approx(room.weights, rel=0.05)
    probes = [f.stat().st_size for f in (ROOT / "results/demo/probes").rglob("*.json")]
    if len(probes) == 36:
        assert sum(probes) == pytest.approx(room.probes, rel=0.25)
    assert room.data == pytest.approx(1797 * (192 + 8))


def test_the_error_on_past_jobs_is_told(demo: Study, empty: Path) -> None:
    (empty / "params").mkdir()
    (empty / "params/demo.yaml").write_text((ROOT / "params/demo.yaml").read_text())
    run = demo.trained()[0]
    trained(demo, run)
    work = costs.footprint(run, 8).work
    costs.append_measurements([measured(work, 0.01), measured(work * 2, 0.02)])
    past, strange = plan.past_jobs(costs.read_measurements())
    assert (len(past), strange) == (5, 0)
    # Epoch 100 has 50 epochs of 8 steps of 0.01 s behind epoch 50.
    assert past[-1].expected_s == pytest.approx(4.0)
    said = "\n".join(plan.describe("demo", demo, 2))
    assert "Error on 5 past jobs, pretrain on cpu: expected over measured wall-clock time" in said
    assert "each of 2 shapes from the others" in said


def test_sizes_equal_those_of_the_selection(demo: Study, empty: Path) -> None:
    """The catalog's arithmetic, with and without hold-out and share."""
    run = demo.trained()[0]
    assert plan.sizes_of(demo, run) == Sizes(1150, 1150, 288, 359, 10, 8)
    half = demo.data.model_copy(update={"fraction": 0.5})
    whole = run.model_copy(update={"protocol": "reference", "data": half})
    assert plan.sizes_of(demo, whole).pretraining == 719
    assert plan.sizes_of(demo, whole).validation == 0


def test_a_damaged_benchmark_is_no_past_job(demo: Study, empty: Path) -> None:
    assert json.loads("[]") == costs.read_measurements()
    assert plan.past_jobs([]) == ([], 0)


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.21, "3.2 s"), (90, "90 s"), (130, "2.17 min"), (1e6, "11.6 d")]
)
def test_durations_in_words(seconds: float, said: str) -> None:
    assert plan.duration(seconds) == said
