"""The plan: which jobs, how long, how much room; and the measurements behind it."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_results import RECORDED

from barlow_atlas.__main__ import main
from barlow_atlas.atlas.records import Content
from barlow_atlas.objectives import METHODS
from barlow_atlas.probes.packing import pack, pack_correlations
from barlow_atlas.probes.signals import CORNER
from barlow_atlas.settings.training import Backbone
from barlow_atlas.store.snapshot import write_milestone
from barlow_atlas.study import sizes as images
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import Run, Study
from barlow_atlas.study.sizes import Sizes, sizes_of
from barlow_atlas.tools import costs, plan
from barlow_atlas.tools.costs import Measurement, Shape, probes_shape, step_shape
from barlow_atlas.tools.durations import (
    BETWEEN_JOBS_S,
    Expectation,
    longest_chain,
    past_jobs,
    wall_seconds,
)
from barlow_atlas.tools.footprint import footprint, kept_for_backward, nbytes
from barlow_atlas.tools.measure import training
from barlow_atlas.tools.storage import storage_of
from barlow_atlas.training.loop import initial_state
from barlow_atlas.workflow.jobs import (
    Job,
    jobs_of,
    stale_milestones,
    submissions,
    targets,
    to_run,
)
from barlow_atlas.workflow.sources import fingerprint

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


ALONE = {"seeds_together": 1, "milestones_together": 1}


@pytest.fixture
def demo() -> Study:
    """The demo, a job a seed and milestone."""
    return load_study(ROOT / "params/demo.yaml").model_copy(update=ALONE)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    images._sizes.cache_clear()
    return tmp_path


def measured(shape: Shape | None, seconds: float, **other: object) -> Measurement:
    about = {
        "shape": shape,
        "study": "s",
        "run": "r",
        "seconds": seconds,
        "repeated": 3,
        "kept_mb": None,
        "device": "cpu",
        "processor": costs.processor(),
        "threads": 1,
        "python": "3",
        "torch": "2",
        "date": "2026-01-01",
        "command": "c",
    }
    return Measurement.model_validate(about | other)


def changed(shape: Shape, **values: object) -> Shape:
    return shape.model_copy(update=values)


# What a run keeps


def small_runs(demo: Study) -> dict[str, Run]:
    """A small run of every method that the studies train, by its objective."""
    small = Backbone(name="small", stem="3x3", width=8)
    shape = {"backbone": small, "batch_size": 128, "embedding_dim": 16}
    base = demo.trained()[0].model_copy(update=shape)
    found: dict[str, Run] = {}
    for path in find_studies(ROOT / "params").values():
        for run in load_study(path).trained():
            settings = run.settings
            try:
                settings.check(base.batch_size, base.embedding_dim)
            except ValueError:
                continue
            update = {"settings": settings, "method": "m", "optimizer": run.optimizer}
            found.setdefault(settings.objective, base.model_copy(update=update))
    return found


def test_a_footprint_is_what_a_real_step_leaves_for_every_method(demo: Study) -> None:
    runs = small_runs(demo)
    assert runs.keys() == METHODS.keys()
    for objective, run in runs.items():
        state, steps = training(run, 8, CPU)
        next(steps)
        found = footprint(run)
        assert found.weights == nbytes(state.network.state_dict()), objective
        assert found.state == pytest.approx(nbytes(state.to_dict()), rel=1e-3), objective


def test_seeds_share_a_footprint(demo: Study) -> None:
    a, b, *_ = demo.trained()
    assert a.seed != b.seed
    assert footprint(a) is footprint(b)


def test_what_a_step_keeps_grows_with_the_batch_and_leaves_parameters_out(demo: Study) -> None:
    run = demo.trained()[0]

    def kept(batch_size: int) -> int:
        state, steps = training(run.model_copy(update={"batch_size": batch_size}), 8, CPU)
        next(steps)
        return sum(kept_for_backward(state, lambda: next(steps)))

    assert kept(128) == pytest.approx(2 * kept(64), rel=0.1)
    state = initial_state(run, CPU)
    network = state.network
    # A linear layer keeps its input, and not its weight.
    layer = next(each for each in network.projector.modules() if isinstance(each, torch.nn.Linear))
    given = torch.ones(4, layer.in_features)
    assert kept_for_backward(state, lambda: layer(given)) == [given.nbytes]


# What was measured


def test_a_measured_shape_takes_what_it_took(demo: Study) -> None:
    shape = step_shape(demo.trained()[0])
    known = [measured(shape, 7.0, kept_mb=3.0), measured(changed(shape, images=256), 1.0)]
    found = costs.cost_of(shape, known, 1)
    assert found is not None
    assert (found.seconds, found.kept_mb) == (7.0, 3.0)
    assert found.basis == f"measured on 2026-01-01, {costs.processor()}, torch 2, 1 threads"


def test_the_nearest_of_its_kind_is_taken_in_proportion_and_said(demo: Study) -> None:
    shape = step_shape(demo.trained()[0])
    assert (shape.images, shape.image_size, shape.embedding_dim) == (128, 8, 256)
    near = measured(changed(shape, images=64), 1.0, kept_mb=3.0)
    known = [measured(changed(shape, images=8), 9.0), near]
    found = costs.cost_of(shape, known, 1)
    assert found is not None
    assert (found.seconds, found.kept_mb) == (2.0, 6.0)
    assert found.basis.startswith(
        "128 images of 8 x 8, d=256 as 2 times 64 images of 8 x 8, d=256, measured on 2026-01-01"
    )
    widths = [measured(changed(shape, embedding_dim=d), float(d)) for d in (8, 300, 4096)]
    found = costs.cost_of(shape, widths, 1)
    assert found is not None
    assert found.seconds == 300.0
    # As many pixels in other images are not the same shape.
    others = [measured(changed(shape, images=32, image_size=16), 5.0), measured(shape, 1.0)]
    found = costs.cost_of(shape, others, 1)
    assert found is not None
    assert found.seconds == 1.0


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "bfloat16"},
        {"compiled": True},
        {"backbone": Backbone(name="small", stem="3x3", width=32)},
    ],
)
def test_another_kind_of_step_says_nothing(demo: Study, other: dict[str, object]) -> None:
    bt, mix = ({run.method: run for run in demo.trained()}[name] for name in ("bt", "mix"))
    known = [measured(step_shape(bt), 1.0)]
    assert costs.cost_of(step_shape(mix), known, 1) is None
    assert costs.cost_of(step_shape(bt.model_copy(update=other)), known, 1) is None
    assert costs.cost_of(probes_shape(demo, bt), known, 1) is None


def test_seeds_lengths_and_names_are_no_shape(demo: Study) -> None:
    run = demo.trained()[0]
    other = run.model_copy(update={"seed": 9, "epochs": 7, "method": "other"})
    assert step_shape(other) == step_shape(run)
    assert probes_shape(demo, other) == probes_shape(demo, run)
    fewer = run.model_copy(update={"data": demo.data.model_copy(update={"fraction": 0.5})})
    assert probes_shape(demo, run).images - probes_shape(demo, fewer).images == 575


def test_measurements_are_replaced_not_repeated(demo: Study, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    shape = step_shape(demo.trained()[0])
    start, other = measured(None, 0.5), measured(changed(shape, images=2), 2.0)
    costs.append_measurements([measured(shape, 1.0), other, start], file)
    costs.append_measurements([measured(shape, 3.0, study="t"), measured(None, 0.7)], file)
    assert [one.seconds for one in costs.read_measurements(file)] == [3.0, 2.0, 0.7]
    assert len(file.read_text().splitlines()) == 3 + 2


def test_the_nearest_number_of_threads_speaks(demo: Study) -> None:
    shape = step_shape(demo.trained()[0])
    known = [measured(shape, 1.0, threads=n) for n in (1, 4)]
    assert {one.threads for one in costs.measured_on(known, "cpu", 8)} == {4}
    assert {one.threads for one in costs.measured_on(known, "cpu", 2)} == {1}
    assert costs.measured_on(known, "NVIDIA A100", 2) == []
    found = costs.cost_of(shape, costs.measured_on(known, "cpu", 2), 2)
    assert found is not None
    assert "1 threads (the study asks for 2, which may be faster or slower)" in found.basis


@pytest.mark.parametrize("name", ["demo", "cifar10-small"])
def test_the_committed_measurements_speak_for_the_small_studies(name: str) -> None:
    study = load_study(ROOT / f"params/{name}.yaml")
    known = costs.read_measurements(ROOT / costs.MEASUREMENTS)
    for run in study.trained():
        assert costs.cost_of(step_shape(run), known, 1) is not None, run.name


def test_the_committed_measurements_explain_each_other() -> None:
    """Each step from the nearest of the others of its kind, among those of this machine."""
    known = costs.read_measurements(ROOT / costs.MEASUREMENTS)
    steps = [one for one in known if one.shape and one.shape.what == "step"]
    errors = []
    for one in steps:
        assert one.shape is not None
        found = costs.cost_of(one.shape, [other for other in steps if other != one], 1)
        if found is not None:
            errors.append(found.seconds / one.seconds - 1)
    assert len(errors) >= 4
    assert max(map(abs, errors)) < 0.5


@pytest.mark.slow
def test_a_study_is_measured_and_then_planned(
    demo: Study, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps, start and probes, by the command, which needs the images for the probes only."""
    monkeypatch.setattr("barlow_atlas.tools.measure.SECONDS", 0.0)
    (empty / "params").mkdir()
    (empty / "params/demo.yaml").write_text((ROOT / "params/demo.yaml").read_text())
    with monkeypatch.context() as patched:
        patched.setattr("barlow_atlas.tools.measure._start_seconds", lambda: 0.5)
        assert main(["measure", "--study", "demo", "--device", "cpu"]) == 1
    known = costs.read_measurements()
    assert [one.shape and one.shape.what for one in known] == ["step", "step", None]
    assert "results/data/digits" in capsys.readouterr().err
    assert main(["prepare-data", "--study", "demo"]) == 0
    assert main(["measure", "--study", "demo", "--device", "cpu"]) == 0
    known = costs.read_measurements()
    assert [one.shape and one.shape.what for one in known] == ["step", "step", None, "probes"]
    assert all(one.seconds > 0 for one in known)
    assert [(one.kept_mb or 0) > 5 for one in known] == [True, True, False, False]
    assert {one.run for one in known} == {"", *(run.name for run in demo.trained()[::3])}
    said = "\n".join(plan.describe("demo", demo, 2))
    assert "pretrain on cpu, 36 jobs: measured on" in said
    assert "probe on cpu, 36 jobs: measured on" in said
    assert "Time: 0 GPU hours and" in said


def test_a_plan_loads_no_torch_before_it_comes_to_room() -> None:
    """So that `watch` can ask how long jobs take."""
    program = "import sys; import barlow_atlas.tools.durations; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


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
        "record": 6,
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
        "record": 1,
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
    assert wall_seconds(jobs, lambda _: 2.0, 1) == 10.0
    assert wall_seconds(jobs, lambda _: 2.0, 9) == 10.0
    assert longest_chain(jobs, lambda _: 2.0) == jobs


def test_independent_jobs_share_the_machine() -> None:
    jobs = [Job("probe", Path(str(i))) for i in range(10)]
    assert wall_seconds(jobs, lambda _: 3.0, 4) == 9.0
    assert len(longest_chain(jobs, lambda _: 3.0)) == 1


def test_a_gpu_that_is_not_measured_is_said_to_be(empty: Path) -> None:
    study = load_study(ROOT / "params/cifar10.yaml")
    said = "\n".join(plan.describe("cifar10", study, 8))
    assert "Time: unknown" in said
    assert "pretrain on GPU: not measured for" in said
    assert "Run `python -m barlow_atlas measure --study cifar10` there" in said
    # A CPU says nothing of a GPU; the GPU that was measured last speaks.
    shapes = [*map(step_shape, study.trained()), probes_shape(study, study.trained()[0])]
    costs.append_measurements(measured(shape, 1.0) for shape in shapes)
    assert "Time: unknown" in "\n".join(plan.describe("cifar10", study, 8))
    costs.append_measurements(measured(shape, 2.0, device="H200") for shape in shapes)
    said = "\n".join(plan.describe("cifar10", study, 8))
    assert "GPU hours" in said
    assert "pretrain on H200, " in said


def test_jobs_past_their_limits_are_named(demo: Study, empty: Path) -> None:
    runs = demo.trained()
    steps = [measured(step_shape(run), 60.0, kept_mb=0.0) for run in runs]
    costs.append_measurements([*steps, measured(probes_shape(demo, runs[0]), 7200.0)])
    said = "\n".join(plan.describe("demo", demo, 2))
    assert "expected to take longer than their runtime of 30 min" in said
    assert "others start again: raise it (resources.probe.runtime)" in said
    assert "expected to need more" not in said
    small = demo.resources.pretrain.model_copy(update={"mem_mb": 500})
    tight = demo.model_copy(
        update={"resources": demo.resources.model_copy(update={"pretrain": small})}
    )
    assert "expected to need more" not in "\n".join(plan.describe("demo", tight, 2))
    costs.append_measurements(one.model_copy(update={"kept_mb": 200.0}) for one in steps)
    assert "more than their 500 MB" in "\n".join(plan.describe("demo", tight, 2))


def test_several_processes_share_a_step_and_that_is_said(demo: Study, empty: Path) -> None:
    runs = demo.trained()
    steps = [measured(step_shape(run), 0.4, kept_mb=800.0) for run in runs]
    costs.append_measurements([*steps, measured(probes_shape(demo, runs[0]), 1.0)])
    asked = demo.resources.pretrain.model_copy(update={"nodes": 2, "tasks_per_node": 2})
    several = demo.model_copy(
        update={"resources": demo.resources.model_copy(update={"pretrain": asked})}
    )
    job = next(job for job in jobs_of("demo", demo) if job.rule == "pretrain" and job.epochs)
    known = costs.read_measurements()
    alone, shared = (Expectation(study, known).once(job) for study in (demo, several))
    assert alone is not None
    assert shared is not None
    assert (shared.seconds, shared.kept_mb) == (alone.seconds / 4, 200.0)
    said = "\n".join(plan.describe("demo", several, 8))
    assert "shared by 4 processes without any loss, an assumption that nobody measured" in said
    assert "2 x 2 " in said  # CPUs of a job


def test_accumulation_costs_a_forward_pass_and_saves_memory(demo: Study, empty: Path) -> None:
    in_parts = demo.model_copy(update={"local_statistics": 4})
    runs = in_parts.trained()
    steps = [measured(step_shape(run), 0.3, kept_mb=800.0) for run in runs]
    costs.append_measurements([*steps, measured(probes_shape(demo, runs[0]), 1.0)])

    def asking(**words: object) -> Study:
        asked = demo.resources.pretrain.model_copy(update=words)
        resources = demo.resources.model_copy(update={"pretrain": asked})
        return in_parts.model_copy(update={"resources": resources})

    job = next(job for job in jobs_of("demo", in_parts) if job.rule == "pretrain" and job.epochs)
    known = costs.read_measurements()
    plain, accumulated, by_two = (
        Expectation(asking(**words), known).once(job)
        for words in ({}, {"accumulate": True}, {"accumulate": True, "tasks_per_node": 2})
    )
    assert plain is not None
    assert accumulated is not None
    assert by_two is not None
    assert (plain.seconds, plain.kept_mb) == (0.3, 800.0)
    assert (accumulated.seconds, accumulated.kept_mb) == (pytest.approx(0.4), 200.0)
    assert (by_two.seconds, by_two.kept_mb) == (pytest.approx(0.2), 200.0)
    said = "\n".join(plan.describe("demo", asking(accumulate=True), 8))
    assert "accumulated over 4 parts, each with a forward pass more, taken as a third" in said


def as_probed(recorded: Content) -> Content:
    """A milestone with what its record leaves out of the probe file, in its size."""
    content = deepcopy(recorded)
    for entry in content["results"]:
        entry["correct"] = pack(np.ones(entry["count"], dtype=bool))
    corner = pack_correlations(np.ones((CORNER, CORNER)))
    content["signals"][-1]["correlation"] = {"dimensions": CORNER, "values": corner}
    return content


def test_storage_is_that_of_the_files(demo: Study, empty: Path) -> None:
    """One run's weights and states within 5 %, and the demo's probe files within 25 %."""
    run = demo.trained()[0]
    trained(demo, run)
    room = storage_of(demo, jobs_of("demo", demo), 2)
    weights = sum(file.stat().st_size for file in Path("results").rglob("*.safetensors"))
    assert 6 * weights == pytest.approx(room.weights, rel=0.05)
    probes = [len(json.dumps(as_probed(content), indent=1)) for content in RECORDED]
    assert len(probes) == 36
    assert sum(probes) == pytest.approx(room.probes, rel=0.25)
    assert room.data == pytest.approx(1797 * (192 + 8))
    together = demo.model_copy(update={"milestones_together": 3})
    copies = storage_of(together, jobs_of("demo", together), 2).resume - room.resume
    assert copies == 2 * (3 - 1) * footprint(run).weights


def test_jobs_of_a_group_start_once(demo: Study, empty: Path) -> None:
    steps = [measured(step_shape(run), 0.01) for run in demo.trained()]
    known = [*steps, measured(probes_shape(demo, demo.trained()[0]), 1.0), measured(None, 3.0)]

    def seconds(study: Study) -> list[float]:
        expected = Expectation(study, known)
        jobs = [job for job in submissions(jobs_of("demo", study)) if job.run]
        return [expected.seconds(job) or 0.0 for job in jobs]

    grouped = {"seeds_together": 3, "milestones_together": 3}
    apart, together = seconds(demo), seconds(demo.model_copy(update=grouped))
    assert (len(apart), len(together)) == (2 * 3 * 6 * 2, 2 * 2 * 2)
    assert sum(apart) - sum(together) == pytest.approx((72 - 8) * (BETWEEN_JOBS_S + 3.0))


def test_past_jobs_go_before_what_was_measured_and_tell_its_error(demo: Study, empty: Path) -> None:
    run = demo.trained()[0]
    trained(demo, run)
    jobs = jobs_of("demo", demo)
    costs.append_measurements([measured(step_shape(run), 0.01)])
    known, past = costs.read_measurements(), list(past_jobs("demo", demo, jobs))
    assert [(one.job.run, one.job.epoch, one.seconds) for one in past] == [
        (run, epoch, 1.0) for epoch in (5, 10, 25, 50, 100)
    ]
    # Epoch 100 has 50 epochs of 8 steps of 0.01 s behind epoch 50.
    assert Expectation(demo, known).computed(past[-1].job) == pytest.approx(4.0)
    # Of 5, 5, 15, 25 and 50 epochs that took 1 s each, the middle has 15.
    expected = Expectation(demo, known, past).computed(past[-1].job)
    assert expected == pytest.approx(50 / 15)
    said = "\n".join(plan.describe("demo", demo, 2))
    assert "Error on 5 past jobs, pretrain on cpu: measured steps over wall-clock time" in said
    # 0.4, 0.4, 1.2, 2 and 4 s over 1 s.
    assert "+20% in the median, -60% to +300%" in said
    assert "jobs: as 5 jobs of this study took" in said
    other = demo.model_copy(update={"batch_size": 64})
    assert list(past_jobs("demo", other, jobs_of("demo", other))) == []


def test_a_probe_that_ran_says_what_probes_take(demo: Study, empty: Path) -> None:
    run = demo.trained()[0]
    trained(demo, run)
    jobs = jobs_of("demo", demo)
    file = Path(f"logs/demo/probe/{run.name}/epoch_0010.tsv")
    file.parent.mkdir(parents=True)
    file.write_text("s\th:m:s\n7.5\t0:00:07\n")
    past = list(past_jobs("demo", demo, jobs))
    (probe,) = (one for one in past if one.job.rule == "probe")
    assert (probe.seconds, probe.job.epoch) == (7.5, 10)
    # Its program's start is in it, and is no part of what it computes.
    expected = Expectation(demo, [measured(None, 3.0)], past)
    assert expected.computed(probe.job) == pytest.approx(4.5)
    file.write_text("s\n")
    assert [one.job.rule for one in past_jobs("demo", demo, jobs)] == ["pretrain"] * 5


def test_sizes_equal_those_of_the_selection(demo: Study, empty: Path) -> None:
    """The catalog's arithmetic, with and without hold-out and share."""
    run = demo.trained()[0]
    assert sizes_of(demo, run) == Sizes(1150, 1150, 288, 359, 10, 8)
    half = demo.data.model_copy(update={"fraction": 0.5})
    whole = run.model_copy(update={"protocol": "reference", "data": half})
    assert sizes_of(demo, whole).pretraining == 719
    assert sizes_of(demo, whole).validation == 0
