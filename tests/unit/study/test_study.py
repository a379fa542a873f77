"""Study files: what is refused and how it is said, the grid, the settings of the paper studies."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from barlow_atlas.settings.augmentation import RECIPES
from barlow_atlas.settings.training import Projector
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.file import file_schema, files_of, find_studies, load_study, study_file
from barlow_atlas.study.models import Probes, Run
from barlow_atlas.study.paths import SCHEMA

PARAMS = Path("params")
DEMO = (PARAMS / "demo.yaml").read_text()
STUDIES = list(find_studies(PARAMS).values())
PAPER = ["cifar10", "cifar100", "stl10", "tiny-imagenet"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_committed_studies_are_valid_and_match_the_schema(path: Path) -> None:
    study = load_study(path)
    schema = json.loads(SCHEMA.read_text())
    jsonschema.validate(YAML(typ="safe", pure=True).load(path), schema)
    assert len({run.name for run in study.runs()}) == len(study.runs())


def test_the_schema_is_in_step_with_the_models() -> None:
    assert json.loads(SCHEMA.read_text()) == file_schema()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("lambda_bt:", "lamda_bt:", ["methods.bt.lamda_bt is no parameter", "mean 'lambda_bt'"]),
        ("name: digits", "name: digitz", ["data", "unknown data set 'digitz'", "mean 'digits'"]),
        ("twins\n", "twin\n", ["methods.bt.objective", "'barlow_twin'", "mean 'barlow_twins'"]),
        ("    objective: barlow_twins\n", "", ["methods.bt.objective is missing"]),
        ("k: 200", "kk: 200", ["probes.knn.0.kk is no parameter", "mean 'k'"]),
        ("epochs: 100", "epochs: '100'", ["epochs = '100'", "valid integer"]),
        ("[0, 5", "[1, 5", ["milestones must begin with 0"]),
        ("50, 100]", "50, 101]", ["milestone 101 lies past the 100 epochs"]),
        ("25, 50", "50, 25", ["milestones must rise"]),
        ("[0, 5, 10, 25, 50, 100]", "{each: 5}", ["milestones", "or such as {every: 5, to: 100}"]),
        ("name: adam", "name: adma", ["optimizer.name: unknown name 'adma'", "mean 'adam'"]),
        ("recipe: digits", "recipe: digit", ["unknown recipe 'digit'", "mean 'digits'"]),
        ("batch_size: 128", "batch_size: 1", ["batch_size = 1", "greater than or equal to 2"]),
        ("seeds: [1, 2, 3]", "seeds: [1, 1]", ["seeds", "each value once"]),
        ("width: 16", "wdth: 16", ["backbone.wdth is no parameter", "mean 'width'"]),
        ("lambda_reg: 4.0", "lambda_reg: .nan", ["methods.mix.lambda_reg", "finite"]),
        ("title:", "titel:", ["title is missing", "titel is no parameter"]),
        ("bt:\n    obj", "B t:\n    obj", ["method name 'B t'"]),
        ("protocol: clean", "protocol: reference", ["one learning rate and one weight decay"]),
        ("image_size: 8", "image_size: 8\nimage_size: 9", ["not valid YAML", "image_size"]),
        ("warmup_epochs: 10", "warmup_epochs: 100", ["warmup_epochs (100) must be below"]),
        (
            "name: digits",
            "name: mine\n  path: x",
            ["needs either `stored_size` or `stored: original`"],
        ),
        ("name: mix_cosine", "name: trunk", ["schedule.cooldown_epochs is missing"]),
        ("threads: 1", "threads: 1\noverrides: {bt2: {epochs: 5}}", ["unknown method", "'bt'"]),
        ("0.07}", "0.07, distance: euclidean}", ["probes.knn.1", "`temperature: null`"]),
        ("{k: 20, temperature: 0.07}", "{k: 200, temperature: 0.5}", ["'k=200 T=0.5", "ask one"]),
        ("  knn:", "  kmn:", ["probes.kmn is no parameter", "mean 'knn'"]),
        (
            "  probe: {",
            "  probe: {gpu: 2, ",
            ["resources.probe asks for 2 processes", "done by one, but for detectors"],
        ),
        ("  probe: {", "  probe: {nodes: 2, ", ["resources.probe asks for 2", "give `gpu: 1`"]),
    ],
)
def test_what_is_wrong_is_named(before: str, after: str, said: list[str], tmp_path: Path) -> None:
    assert before in DEMO
    path = tmp_path / "broken.yaml"
    path.write_text(DEMO.replace(before, after, 1))
    with pytest.raises(StudyError) as failure:
        load_study(path)
    for part in [str(path), *said]:
        assert part in str(failure.value)


def test_a_missing_study_names_the_nearest() -> None:
    with pytest.raises(StudyError, match="mean 'cifar10'"):
        load_study(PARAMS / "cifar1.yaml")


def test_the_grid_is_methods_by_dims_by_seeds() -> None:
    study = load_study(PARAMS / "demo.yaml").model_copy(
        update={"embedding_dims": (64, 256), "seeds": (1, 7)}
    )
    names = [run.name for run in study.runs()]
    assert names == [
        f"{method}-d{dim}-e100-clean-s{seed}"
        for method in ("bt", "mix")
        for dim in (64, 256)
        for seed in (1, 7)
    ]
    assert study.run(names[3]).embedding_dim == 256


def test_overrides_change_one_method_only(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(DEMO + "overrides: {mix: {batch_size: 64, epochs: 50, fraction: 0.5}}\n")
    bt, mix = (load_study(path).trained()[i] for i in (0, 3))
    assert (bt.batch_size, bt.epochs, bt.data.fraction) == (128, 100, 1)
    assert (mix.batch_size, mix.epochs, mix.data.fraction) == (64, 50, 0.5)
    assert load_study(path).milestones_of(mix) == (0, 5, 10, 25, 50)
    assert bt == load_study(PARAMS / "demo.yaml").trained()[0]


def test_a_method_may_have_fewer_seeds(tmp_path: Path) -> None:
    path = tmp_path / "few.yaml"
    path.write_text(
        DEMO.replace("seeds_together: 3", "seeds_together: 2")
        + "overrides: {mix: {seeds: [1, 2]}}\n"
    )
    study = load_study(path)
    assert [(run.method, run.seed) for run in study.trained()] == [
        *(("bt", 1), ("bt", 2), ("bt", 3), ("mix", 1), ("mix", 2)),
    ]
    groups = [[(run.method, run.seed) for run in group] for group in study.groups()]
    assert groups == [[("bt", 1), ("bt", 2)], [("bt", 3)], [("mix", 1), ("mix", 2)]]


@pytest.mark.parametrize("seeds", ["[2]", "[1, 3]", "[1, 2, 3, 4]"])
def test_fewer_seeds_are_the_first_of_the_studys(tmp_path: Path, seeds: str) -> None:
    path = tmp_path / "others.yaml"
    path.write_text(DEMO + f"overrides: {{mix: {{seeds: {seeds}}}}}\n")
    with pytest.raises(StudyError, match=r"overrides\.mix\.seeds .*expected the first .*1, 2, 3"):
        load_study(path)


def test_a_base_is_taken_but_for_the_keys_a_file_has(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(DEMO)
    (tmp_path / "more").mkdir()
    path = tmp_path / "more/other.yaml"
    path.write_text("base: ../demo.yaml\nseeds: [7]\n")
    demo, other = load_study(tmp_path / "demo.yaml"), load_study(path)
    assert other == demo.model_copy(update={"seeds": (7,)})
    assert files_of(path) == [path, tmp_path / "demo.yaml"]
    assert list(find_studies(tmp_path)) == ["demo", "more/other"]


def test_a_base_that_leads_back_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(StudyError, match="leads back"):
        load_study(tmp_path / "a.yaml")


def test_a_trunk_has_no_end(tmp_path: Path) -> None:
    trunk = "schedule: {name: trunk, base_lr: 0.01, warmup_epochs: 5, cooldown_epochs: 3}\n"
    study = DEMO[: DEMO.index("schedule:")] + trunk + DEMO[DEMO.index("milestones:") :]
    path = tmp_path / "trunk.yaml"
    path.write_text(study.replace("epochs: 100\nbatch", "batch"))
    found = load_study(path)
    run = found.trained()[0]
    assert (run.name, run.epochs, run.cooldown_epochs) == ("bt-d256-trunk-clean-s1", None, 3)
    assert found.milestones_of(run) == found.milestones
    longer = path.read_text().replace("50, 100]", "50, 100, 200]")
    path.write_text(longer)
    assert load_study(path).trained()[0] == run


def test_foreign_weights_are_runs_that_are_not_trained(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(DEMO + "foreign: {theirs: {layout: torchvision, files: {90: a.pth, 9: b.pth}}}")
    with pytest.raises(StudyError, match="the backbone small exists in this project only"):
        load_study(path)
    path.write_text(
        path.read_text().replace("9: b.pth}", "9: b.pth}, backbone: {name: resnet18, stem: 3x3}")
    )
    study = load_study(path)
    (theirs,) = study.imported()
    assert (theirs.name, theirs.embedding_dim) == ("theirs-imported-clean", None)
    assert study.milestones_of(theirs) == (9, 90)
    assert theirs not in study.trained()
    assert study.run(theirs.name) == theirs


def test_parts_of_a_batch_belong_to_the_run_and_how_they_pass_does_not(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"

    def runs_of(more: str, pretrain: str = "pretrain: {") -> list[Run]:
        path.write_text(DEMO.replace("pretrain: {", pretrain) + more)
        return load_study(path).trained()

    plain, local = runs_of(""), runs_of("local_statistics: 4")
    assert "local_statistics" not in plain[0].model_dump_json()  # as runs on record
    assert [run.local_statistics for run in local] == [4] * len(plain)
    assert runs_of("local_statistics: 4", "pretrain: {accumulate: true, ") == local
    with pytest.raises(StudyError, match=r"accumulate: the whole batch .*Give `local_statistics`"):
        runs_of("", "pretrain: {accumulate: true, ")
    with pytest.raises(StudyError, match=r"batch_size 128 has no 3 equal parts"):
        runs_of("local_statistics: 3")
    with pytest.raises(StudyError, match=r"8 processes cannot share local_statistics 4 evenly"):
        runs_of("local_statistics: 4", "pretrain: {tasks_per_node: 8, ")


def test_an_unknown_run_names_the_nearest() -> None:
    with pytest.raises(StudyError, match="mean 'bt-d256-e100-clean-s1'"):
        load_study(PARAMS / "demo.yaml").run("bt-d256-e10-clean-s1")


def test_a_run_survives_its_json() -> None:
    for run in load_study(PARAMS / "cifar10.yaml").runs():
        assert Run.model_validate_json(run.model_dump_json()) == run


def test_a_study_reads_the_same_after_another_probe_was_added() -> None:
    """Else what it probes would be probed again: Snakemake compares the text."""
    asked = load_study(Path("params/demo.yaml")).probes
    alone = Probes(knn=asked.knn)
    assert json.loads(alone.model_dump_json()).keys() == {"knn", "transfer"}
    assert Probes.model_validate_json(asked.model_dump_json()) == asked
    assert [kind.name for kind in asked.kinds()] == ["knn", "linear"]
    with pytest.raises(ValueError, match="nothing is asked: give at least one of knn, linear"):
        Probes()


def test_what_probes_look_at_is_prepared_beside_the_studys_images() -> None:
    both = [{"targets": ["mnist"]}, {"targets": ["dtd"], "epochs": 5}]
    probes = Probes.model_validate({"transfer": both})
    study = load_study(Path("params/demo.yaml")).model_copy(update={"probes": probes})
    assert [each.name for each in study.data_sets()] == ["digits", "mnist-8", "dtd-8"]


def test_milestones_seeds_and_probes_are_no_part_of_a_run() -> None:
    study = load_study(PARAMS / "demo.yaml")
    other = study.model_copy(
        update={"milestones": (0, 50), "seeds": (1,), "title": "x", "probes": None}
    )
    assert other.runs()[0] == study.runs()[0]


@pytest.mark.parametrize(
    ("said", "epochs"),
    [("{every: 50, to: 100}", (0, 50, 100)), ("{every: 40, to: 100}", (0, 40, 80))],
)
def test_milestones_at_equal_distances(said: str, epochs: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(DEMO.replace("[0, 5, 10, 25, 50, 100]", said))
    assert load_study(path).milestones == epochs


def test_parents_are_the_milestones_before() -> None:
    study = load_study(PARAMS / "demo.yaml")
    assert [study.parent(epoch) for epoch in study.milestones] == [None, 0, 5, 10, 25, 50]
    with pytest.raises(StudyError, match="7 is no milestone"):
        study.parent(7)


@pytest.mark.parametrize("name", PAPER)
def test_paper_studies_have_the_published_settings(name: str) -> None:
    """Sections 1.1 to 1.5 of the source table in docs/fidelity.md, README values."""
    study = load_study(PARAMS / f"{name}.yaml")
    assert study.backbone.name == "resnet18"
    assert study.backbone.stem == ("3x3" if name.startswith("cifar") else "3x3-maxpool")
    assert study.image_size == (32 if name.startswith("cifar") else 64)
    assert study.projector == Projector(hidden=(512,))
    assert study.embedding_dims == (1024,)
    assert (study.epochs, study.batch_size) == (2000, 256)
    assert (study.optimizer.name, study.optimizer.weight_decay) == ("adam", 1e-6)
    assert (study.schedule.base_lr, study.schedule.warmup_epochs) == (0.01, 10)
    mix, bt = study.methods["mix"], study.methods["bt"]
    assert mix.lambda_bt == bt.lambda_bt == (0.0009765 if name == "tiny-imagenet" else 0.0078125)
    assert mix.lambda_reg == (2.0 if name == "stl10" else 4.0)
    assert len(study.seeds) >= 3


def test_planning_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from pathlib import Path; from barlow_atlas.study.file import load_study;"
        "import barlow_atlas.workflow.sources; load_study(Path('params/cifar10.yaml')).runs();"
        "print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recipes_are_the_columns_of_the_published_table() -> None:
    """Section 1.2 of the protocol facts (docs/fidelity.md, data and augmentation)."""
    cifar, tiny, stl = (RECIPES[f"mix-{name}"] for name in ("cifar", "tiny-imagenet", "stl10"))
    for recipe in (cifar, tiny, stl):
        assert recipe.view_a == recipe.view_b
        view = recipe.view_a
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.4, 0.1)
        assert (view.jitter_p, view.flip_p, view.blur_p, view.solarise_p) == (0.8, 0.5, 0, 0)
        assert view.crop_ratio == (3 / 4, 4 / 3)
    assert (cifar.view_a.crop_scale, cifar.view_a.grayscale_p) == ((0.08, 1), 0.2)
    assert (cifar.view_a.interpolation, cifar.view_a.crop_last) == ("bilinear", False)
    assert (cifar.mean, cifar.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    for recipe in (tiny, stl):
        assert (recipe.view_a.crop_scale, recipe.view_a.grayscale_p) == ((0.2, 1), 0.1)
        assert (recipe.view_a.interpolation, recipe.view_a.crop_last) == ("bicubic", True)
    assert (tiny.mean, tiny.std) == ((0.480, 0.448, 0.398), (0.277, 0.269, 0.282))
    assert (stl.mean, stl.std) == ((0.43, 0.42, 0.39), (0.27, 0.26, 0.27))
    resizes = (cifar.evaluation_resize, tiny.evaluation_resize, stl.evaluation_resize)
    assert resizes == (None, None, 70)
    # CIFAR-100 is normalised with CIFAR-10's statistics.
    assert load_study(PARAMS / "cifar100.yaml").recipe == cifar


@pytest.mark.parametrize(
    "name",
    [
        "../demo",
        "demo/../../etc",
        "/etc/passwd",
        "a//b",
        "",
        "a/",
        "Demo",
        "<b>x</b>",
        "a\nb",
        "$(x)",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(StudyError, match="cannot be a study"):
        study_file(PARAMS, name)


def test_what_is_no_study_is_not_offered_as_one() -> None:
    assert {"claims", "tables"}.isdisjoint(find_studies(PARAMS))
    with pytest.raises(StudyError, match="Did you mean") as refused:
        load_study(study_file(PARAMS, "cifar_10"))
    assert "claims" not in str(refused.value)
