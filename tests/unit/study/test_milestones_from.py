"""Studies that ask other questions to what another trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.steps.take_milestone import take_milestone
from barlow_atlas.store.snapshot import SnapshotError, write_milestone
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.file import check_taken, load_studies, load_study
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import manifest_file, of_run
from barlow_atlas.tools.doctor import check_taken as check_taken_weights
from barlow_atlas.workflow.jobs import jobs_of, stale_milestones

STUDIES = load_studies(Path("params"), pytest.fail)
TAKING = sorted(name for name, study in STUDIES.items() if study.milestones_from)
DEMO = STUDIES["demo"]


@pytest.mark.parametrize("name", TAKING)
def test_what_is_taken_is_what_the_other_study_trains(name: str) -> None:
    study = STUDIES[name]
    check_taken(name, study, STUDIES)
    rules = [job.rule for job in jobs_of(name, study)]
    assert "pretrain" not in rules
    assert rules.count("take_milestone") == rules.count("probe")


# Mixed Barlow Twins, table 3 of its repository's README.
MIX_TARGETS = (
    "dtd",
    "mnist",
    "fashion-mnist",
    "cub-200",
    "flowers-102",
    "traffic-signs",
    "aircraft",
)


def test_the_published_transfers_are_planned() -> None:
    sources = ("cifar10", "cifar100", "stl10")
    names = [f"transfer/{source}{end}" for source in sources for end in ("", "-clean")]
    others = {"transfer/imagenet", "transfer/methods", "transfer/fixed-rate-small"}
    assert {name for name in STUDIES if name.startswith("transfer/")} == {*names, *others}
    for name in names:
        study = STUDIES[name]
        source = name.removeprefix("transfer/").removesuffix("-clean")
        assert study.data.name == source
        (transfer,) = (probe for probe in study.probes.asked() if probe.name == "transfer")
        assert transfer.variants == MIX_TARGETS
        sizes = {each.image_size for each in study.data_sets()[1:]}
        assert sizes == {64 if source == "stl10" else 32}
        clean = name.endswith("-clean")
        assert study.protocol == ("clean" if clean else "reference")
        assert study.milestones_from == (source if clean else f"reference/{source}")
        if not clean:
            assert (transfer.epochs, transfer.batch_size) == (100, 128)
            assert (transfer.learning_rates, transfer.weight_decays) == ((0.01,), (0.0,))
            assert study.trained()[0].settings == STUDIES[source].trained()[0].settings


def taking(**changes: Any) -> Study:
    return DEMO.model_copy(update={"milestones_from": "demo", **changes})


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (taking(milestones_from="dmo"), "study in milestones_from.*Did you mean 'demo'"),
        (taking(milestones_from="transfer/cifar10-clean"), "from cifar10 itself: name that study"),
        (taking(batch_size=64), "demo, which does not train .* with these parameters"),
        (taking(seeds=(9,)), "demo, which does not train .*-s9 with these parameters"),
        (taking(milestones=(0, 7, 100)), r"demo has no milestone 7: it has \[0, 5,"),
    ],
)
def test_what_the_other_does_not_train_is_refused(study: Study, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        check_taken("mine", study, STUDIES)


def test_branches_of_a_trunk_are_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    base = Path("params/ablations/digits-budget.yaml").resolve()
    (tmp_path / "base.yaml").write_text(
        base.read_text().replace("../demo.yaml", str(Path("params/demo.yaml").resolve()))
    )
    file.write_text("base: base.yaml\nmilestones_from: ablations/digits-budget\n")
    with pytest.raises(StudyError, match="annealed in branches, which cannot be taken"):
        load_study(file)


def test_a_study_that_takes_nothing_says_nothing_of_it() -> None:
    assert "milestones_from" not in DEMO.model_dump(mode="json")


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Stores an untrained milestone of the demo in an empty repository."""
    monkeypatch.chdir(tmp_path)

    def store() -> Path:
        run = DEMO.trained()[0]
        network = build(run.architecture, generator(run.seed, "weights"))
        write_milestone(
            of_run("checkpoints", "demo", run.name),
            study="demo",
            run=run,
            epoch=0,
            parent=None,
            weights=network.state_dict(),
            state=None,
            data_sha256="0" * 64,
            sources_sha256="1" * 64,
            made_by={},
        )
        return manifest_file("demo", run.name, 0)

    return store


def test_a_milestone_is_taken_as_it_is(trained: Callable[[], Path]) -> None:
    theirs, run = trained(), DEMO.trained()[0]
    take_milestone("mine", taking(), run.name, 0)
    own = manifest_file("mine", run.name, 0)
    for suffix in (".json", ".safetensors"):
        assert own.with_suffix(suffix).read_bytes() == theirs.with_suffix(suffix).read_bytes()


def test_a_damaged_or_foreign_milestone_is_not_taken(trained: Callable[[], Path]) -> None:
    theirs, run = trained(), DEMO.trained()[0]
    with pytest.raises(StudyError, match="mine takes no milestones of another"):
        take_milestone("mine", DEMO, run.name, 0)
    with pytest.raises(SnapshotError, match="other parameters"):
        take_milestone("mine", taking(batch_size=64), run.name, 0)
    weights = theirs.with_suffix(".safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(SnapshotError, match="is damaged"):
        take_milestone("mine", taking(), run.name, 0)
    assert not manifest_file("mine", run.name, 0).exists()


def test_doctor_counts_what_is_here(trained: Callable[[], Path]) -> None:
    theirs = trained()
    run = DEMO.trained()[0]
    few = taking(milestones=(0, 5), seeds=(run.seed,), methods={run.method: run.settings})
    (check,) = check_taken_weights("mine", few)
    assert (check.level, check.told) == ("missing", "1 of 2 milestones of demo are here")
    assert "--config study=demo,mine" in check.remedy
    for suffix in (".json", ".safetensors"):
        five = theirs.with_name(f"epoch_0005{suffix}")
        five.write_bytes(theirs.with_suffix(suffix).read_bytes())
    (check,) = check_taken_weights("mine", few)
    assert (check.level, check.remedy) == ("ok", "")
    assert list(check_taken_weights("demo", DEMO)) == []


def test_what_was_taken_is_judged_by_who_trained_it(trained: Callable[[], Path]) -> None:
    """What the other study's adoptions say holds; so does another seed's, parameter's, code's."""
    trained()
    run = DEMO.trained()[0]
    take_milestone("mine", taking(), run.name, 0)
    (reason,) = set(stale_milestones("mine", jobs_of("mine", taking())).values())
    assert reason == "other code"
