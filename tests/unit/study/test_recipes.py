"""Recipes and studies against their sources (docs/recipes.md), and ablations against their base."""

from pathlib import Path
from typing import Any

import pytest

from barlow_atlas.nn.optim import learning_rate, peak_rate
from barlow_atlas.settings.augmentation import RECIPES, Augmentation
from barlow_atlas.settings.training import (
    LARS,
    SGD,
    Adam,
    BTCosine,
    Drops,
    EpochCosine,
    MixCosine,
    OnlineClassifier,
    Projector,
    StepCosine,
    Trunk,
)
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import Run, Study

PATHS = find_studies(Path("params"))
COMPARISONS = ["cifar10", "cifar100", "stl10", "tiny-imagenet"]
FIGURE_4 = [2**k for k in range(4, 15)]
SAME = {"method", "seed"}  # which methods and how often is the grid's, not the run's


def study(name: str) -> Study:
    return load_study(PATHS[name])


def run(name: str, method: str) -> Run:
    """The first run of a study's method."""
    return next(run for run in study(name).trained() if run.method == method)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A run's JSON as dotted key -> value."""
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: leaf
        for name, part in value.items()
        for key, leaf in flat(part, f"{path}.{name}" if path else name).items()
    }


def changed(one: Run, other: Run) -> set[str]:
    """Keys in which two runs differ, besides the name of the method and the seed."""
    a, b = (flat(each.model_dump(mode="json")) for each in (one, other))
    return {key for key in a.keys() | b.keys() if a.get(key, ()) != b.get(key, ())} - SAME


def jitter(view: Augmentation) -> tuple[float, ...]:
    return view.brightness, view.contrast, view.saturation, view.hue, view.jitter_p


def removed(name: str, step: str) -> list[dict[str, Any]]:
    """What a step of figure 3 changes in each view of a recipe."""
    base, less = RECIPES[name].model_dump(), RECIPES[f"{name}-{step}"].model_dump()
    views = ("view_a", "view_b")
    assert {k: v for k, v in base.items() if k not in views} == {
        k: v for k, v in less.items() if k not in views
    }
    return [
        {k: v for k, v in less[view].items() if v != base[view][k]} for view in ("view_a", "view_b")
    ]


def test_the_baselines_recipes_are_those_of_ssl_sota() -> None:
    """MIX ssl-sota: cfg.py and datasets/*.py; one pipeline on every data set."""
    names = ["ssl-sota-cifar10", "ssl-sota-cifar100", "mix-stl10", "mix-tiny-imagenet"]
    for recipe in (RECIPES[name] for name in names):
        view = recipe.view_a
        assert recipe.view_b == view
        assert jitter(view) == (0.4, 0.4, 0.4, 0.1, 0.8)
        assert (view.grayscale_p, view.flip_p, view.blur_p, view.solarise_p) == (0.1, 0.5, 0, 0)
        assert (view.crop_scale, view.interpolation, view.crop_last) == ((0.2, 1), "bicubic", True)
    own = RECIPES["ssl-sota-cifar100"]
    assert (own.mean, own.std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert RECIPES["ssl-sota-cifar10"].mean == RECIPES["mix-cifar"].mean
    assert own.evaluation_resize is RECIPES["ssl-sota-cifar10"].evaluation_resize is None


def test_the_other_cifar_recipes_have_their_sources_numbers() -> None:
    """SimSiam paper, appendix D, and its code; lightly's crop; solo-learn's VICReg."""
    simsiam, swav, vicreg = (RECIPES[f"{name}-cifar"] for name in ("simsiam", "swav", "vicreg"))
    for recipe in (simsiam, swav, vicreg):
        view = recipe.view_a
        assert recipe.view_b == view
        assert (view.grayscale_p, view.flip_p, view.blur_p) == (0.2, 0.5, 0)
        assert (recipe.mean, recipe.std) == (RECIPES["mix-cifar"].mean, RECIPES["mix-cifar"].std)
    assert [r.view_a.crop_scale[0] for r in (simsiam, swav, vicreg)] == [0.2, 0.14, 0.2]
    assert jitter(simsiam.view_a) == jitter(swav.view_a) == (0.4, 0.4, 0.4, 0.1, 0.8)
    assert jitter(vicreg.view_a) == (0.4, 0.4, 0.2, 0.1, 0.8)
    assert [r.view_a.solarise_p for r in (simsiam, swav, vicreg)] == [0, 0, 0.1]
    assert vicreg.view_a.interpolation == "bicubic"


def test_solo_learns_recipes_have_its_scripts_numbers() -> None:
    """solo-learn, scripts/pretrain/cifar/*.sh @ 48e669e, and its own mean and std."""
    gentle, strong = (0.4, 0.4, 0.2, 0.1, 0.8), (0.8, 0.8, 0.8, 0.2, 0.8)
    expected = {
        "asymmetric": (gentle, 0.08, (0, 0.2)),
        "weak": ((0.4, 0.4, 0.4, 0.1, 0.8), 0.08, (0, 0)),
        "strong": (strong, 0.08, (0, 0)),
        "strong-crop": (strong, 0.2, (0, 0)),
        "vicreg": (gentle, 0.2, (0.1, 0.1)),
    }
    for name, (colours, crop, solarised) in expected.items():
        for data, std in (("cifar10", (0.2470, 0.2435, 0.2616)), ("cifar100", None)):
            recipe = RECIPES[f"solo-{name}-{data}"]
            views = (recipe.view_a, recipe.view_b)
            assert {jitter(view) for view in views} == {colours}
            assert {view.crop_scale for view in views} == {(crop, 1)}
            assert tuple(view.solarise_p for view in views) == solarised
            assert {view.interpolation for view in views} == {"bicubic"}
            assert {(view.grayscale_p, view.flip_p, view.blur_p) for view in views} == {
                (0.2, 0.5, 0)
            }
            assert recipe.std == (std or (0.2673, 0.2564, 0.2762))


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_solo_learns_methods_have_its_scripts_numbers(data: str) -> None:
    """d, rate, decay, projector and classifier of scripts/pretrain/cifar; 92.10 to 92.07."""
    this = study(f"comparison/{data}-solo")
    found = {}
    for each in this.trained():
        assert isinstance(each.schedule, StepCosine)
        assert (each.batch_size, each.epochs, each.backbone.stem) == (256, 1000, "3x3-pad2")
        assert each.backbone.zero_init_residual == (each.method == "simsiam")
        assert each.schedule.start_lr == (0 if each.method == "w-mse" else 3e-5)
        if isinstance(each.optimizer, LARS):
            assert (each.optimizer.trust_coefficient, each.optimizer.clipped) == (0.02, True)
            assert each.optimizer.bias_lr_ratio == 1
        found[each.method] = (
            each.embedding_dim,
            each.projector.hidden,
            each.optimizer.name,
            each.optimizer.weight_decay,
            each.schedule.base_lr,
        )
        rate = {"moco-v2": 0.3, "w-mse": 0.003}.get(each.method, 0.1)
        assert each.online_linear == OnlineClassifier(classes=int(data[5:]), base_lr=rate)
        assert each.data.name == data
        assert each.recipe in [RECIPES[name] for name in RECIPES if name.endswith(f"-{data}")]
    assert ("online_linear", "trained along") in this.probes.variants()
    assert found == {
        "bt": (2048, (2048, 2048), "lars", 1e-4, 0.3),
        "simclr": (256, (2048,), "lars", 1e-5, 0.4),
        "byol": (256, (4096,), "lars", 1e-5, 1.0),
        "moco-v2": (256, (2048,), "sgd", 1e-4, 0.3),
        "simsiam": (2048, (2048, 2048), "sgd", 1e-5, 0.5),
        "swav": (128, (2048,), "lars", 1e-6, 0.6),
        "w-mse": (64, (1024,), "adam", 1e-6, 0.002),
        "vicreg": (2048, (2048, 2048), "lars", 1e-4, 0.3),
    }


def test_figure_3_removes_one_augmentation_after_the_other() -> None:
    gray, colour = {"grayscale_p": 0.0}, {"grayscale_p": 0.0, "jitter_p": 0.0}
    assert removed("mix-cifar", "no-grayscale") == [gray] * 2
    assert removed("mix-cifar", "no-colour") == [colour] * 2
    assert removed("mix-cifar", "crop") == [colour | {"flip_p": 0.0}] * 2
    assert removed("byol-imagenet", "no-grayscale") == [gray] * 2
    assert removed("byol-imagenet", "no-colour") == [colour] * 2
    bare = colour | {"flip_p": 0.0}
    assert removed("byol-imagenet", "crop-blur") == [bare, bare | {"solarise_p": 0.0}]
    crop = [bare | {"blur_p": 0.0}, bare | {"blur_p": 0.0, "solarise_p": 0.0}]
    assert removed("byol-imagenet", "crop") == crop


@pytest.mark.parametrize("data", COMPARISONS)
def test_comparisons_hold_all_methods_under_one_protocol(data: str) -> None:
    compared, alone = study(f"comparison/{data}"), study(data)
    methods = ["bt", "mix", "simclr", "moco-v2", "byol", "simsiam", "swav", "w-mse", "vicreg"]
    assert list(compared.methods) == methods
    assert len(compared.trained()) == 9 * 3
    runs = compared.trained()
    for key in ("data", "image_size", "protocol", "threads"):
        assert {str(getattr(each, key)) for each in runs} == {str(getattr(alone, key))}
    assert {(each.epochs, each.backbone.name) for each in runs} == {(1000, "resnet18")}
    assert {each.backbone.stem for each in runs} == {alone.backbone.stem}
    # Barlow Twins and MIX are the data set's own study, but for the epochs.
    for method in ("bt", "mix"):
        differs = changed(run(f"comparison/{data}", method), run(data, method))
        assert differs == {"epochs"}
    # All that has no own normalisation is normalised alike.
    own = {each.recipe.mean for each in runs} - {alone.recipe.mean}
    assert own == ({RECIPES["ssl-sota-cifar100"].mean} if data == "cifar100" else set())


@pytest.mark.parametrize("data", COMPARISONS)
def test_simclr_byol_and_w_mse_are_those_of_ssl_sota(data: str) -> None:
    """Protocol facts 1.9; MIX ssl-sota: cfg.py, train.py, scripts-pretrain/."""
    small = data.startswith("cifar")
    for method in ("simclr", "byol", "w-mse"):
        each = run(f"comparison/{data}", method)
        assert each.recipe == RECIPES[f"ssl-sota-{data}" if small else f"mix-{data}"]
        assert each.optimizer == Adam(name="adam", weight_decay=1e-6)
        assert each.projector == Projector(hidden=(1024,), hidden_bias=True)
        narrow = method != "w-mse" or small
        rate, width = (0.003, 64) if narrow else (0.002, 128)
        assert each.schedule == Drops(
            name="drops", base_lr=rate, factor=0.2, at=(-50, -25), warmup_steps=500
        )
        assert each.embedding_dim == width
        batch = {"w-mse": 256, "byol": 320 if data == "tiny-imagenet" else 384}
        assert each.batch_size == batch.get(method, 384)
    simclr, byol, w_mse = (
        study(f"comparison/{data}").methods[name].model_dump()
        for name in ("simclr", "byol", "w-mse")
    )
    assert (simclr["temperature"], simclr["bn_last"]) == (0.5, True)
    assert byol["base_momentum"] == 0.99
    assert byol["predictor"] == Projector(hidden=(1024,), hidden_bias=True).model_dump()
    assert (w_mse["sub_batch"], w_mse["epsilon"], w_mse["iterations"]) == (
        128 if small else 256,
        0.01,
        1,
    )


@pytest.mark.parametrize("data", COMPARISONS)
def test_the_other_methods_have_their_sources_settings(data: str) -> None:
    """MoCo's CIFAR-10 demo, SimSiam's appendix D, lightly's CIFAR-10 benchmark, VICReg's code and
    solo-learn's CIFAR configuration; all data sets alike, but for the recipe."""
    moco, simsiam, swav, vicreg = (
        run(f"comparison/{data}", name) for name in ("moco-v2", "simsiam", "swav", "vicreg")
    )
    sgd = SGD(name="sgd", momentum=0.9, weight_decay=5e-4)
    cosine = EpochCosine(name="epoch_cosine", base_lr=0.06)
    for each in (moco, simsiam):
        assert (each.optimizer, each.schedule, each.batch_size) == (sgd, cosine, 512)
    given = moco.settings.model_dump()
    assert (given["temperature"], given["queue_length"], given["momentum"]) == (0.1, 4096, 0.99)
    assert moco.projector == Projector(hidden=(512,), hidden_bias=True, batch_norm=False)
    assert moco.embedding_dim == 128
    assert peak_rate(simsiam) == pytest.approx(0.03 * 512 / 256)
    assert simsiam.backbone.zero_init_residual
    assert not moco.backbone.zero_init_residual
    assert simsiam.projector == Projector(hidden=(2048,), output_bias=False, output_norm="plain")
    assert simsiam.embedding_dim == 2048
    given = simsiam.settings.model_dump()
    assert given["predictor"] == Projector(hidden=(512,)).model_dump()
    assert given["constant_predictor_rate"]
    assert swav.optimizer == Adam(name="adam", weight_decay=1e-6)
    assert (swav.schedule.base_lr, swav.batch_size) == (0.001 * 512 / 128, 512)
    assert (swav.projector, swav.embedding_dim) == (Projector(hidden=(512,)), 128)
    given = swav.settings.model_dump()
    assert (given["prototypes"], given["queue_length"], given["frozen_prototype_steps"]) == (
        512,
        0,
        0,
    )
    assert (given["temperature"], given["epsilon"], given["sinkhorn_iterations"]) == (0.1, 0.05, 3)
    assert vicreg.optimizer == LARS(name="lars", weight_decay=1e-4, bias_lr_ratio=1.0)
    assert vicreg.schedule == BTCosine(name="bt_cosine", base_lr=0.3, warmup_epochs=10)
    assert (vicreg.batch_size, vicreg.embedding_dim) == (256, 2048)
    assert vicreg.projector.hidden == (2048, 2048)
    given = vicreg.settings.model_dump()
    weights = (given["invariance_weight"], given["variance_weight"], given["covariance_weight"])
    assert weights == (25, 25, 1)
    cifar = [RECIPES[f"{name}-cifar"] for name in ("mix", "simsiam", "swav", "vicreg")]
    expected = cifar if data.startswith("cifar") else [RECIPES[f"mix-{data}"]] * 4
    assert [each.recipe for each in (moco, simsiam, swav, vicreg)] == expected


def test_imagenet_has_the_settings_of_both_papers_code() -> None:
    """Protocol facts 2 and 5.1 to 5.3."""
    for each in study("imagenet").trained():
        assert (each.backbone.name, each.backbone.stem) == ("resnet50", "7x7-maxpool")
        assert each.backbone.zero_init_residual
        assert each.projector == Projector(hidden=(8192, 8192), output_bias=False)
        assert (each.embedding_dim, each.image_size) == (8192, 224)
        assert each.recipe == RECIPES["byol-imagenet"]
        assert each.optimizer == LARS(name="lars", weight_decay=1e-6, momentum=0.9)
        assert each.optimizer.trust_coefficient == 0.001
        assert each.optimizer.bias_lr_ratio * 0.2 == pytest.approx(0.0048)
        assert each.schedule == BTCosine(name="bt_cosine", base_lr=0.2, warmup_epochs=10)
        given = each.settings.model_dump()
        assert (given["lambda_bt"], given["l2_normalise"]) == (0.0051, False)
        official = each.method == "bt"
        assert given["standardisation"] == ("batch_norm" if official else "unbiased")
        long = each.method in ("bt", "mix-2-1000")
        assert (each.batch_size, each.epochs) == (
            2048 if official else 1024,
            1000 if long else 300,
        )
        if each.method.startswith("mix"):
            assert (given["convention"], given["reg_warmup_epochs"]) == ("imagenet", 10)
    weights = [getattr(m, "lambda_reg", None) for m in study("imagenet").methods.values()]
    assert weights == [None, None, 0.0025, 0.1, 1, 2, 3, 5, 2]


def settings(*keys: str) -> set[str]:
    return {f"settings.{key}" for key in keys}


def views(*keys: str) -> set[str]:
    return {f"recipe.{view}.{key}" for view in ("view_a", "view_b") for key in keys}


MIX = settings("objective", "lambda_reg", "convention", "reg_warmup_epochs")
LOSS = settings("objective", "variant", "temperature", "divide_by_n")
ASYMMETRY = settings("objective", "stop_gradient", "predictor") | settings(
    *(f"predictor.{key}" for key in Projector.model_fields)
)
REMOVED = views("grayscale_p", "jitter_p", "flip_p")
LARGE_BATCH = {"batch_size", "optimizer.name", "schedule.name", "schedule.base_lr"} | {
    f"optimizer.{key}" for key in ("momentum", "trust_coefficient", "bias_lr_ratio", "clipped")
}
TRUNK = {"epochs", "schedule.name", "schedule.cooldown_epochs"}
WIDTH = {"embedding_dim", "projector.hidden"}
BASELINE = ("ablations/baseline", "bt")

# Study: its number of methods, the run elsewhere that its first run continues, what that first run
# has otherwise, and what its runs have otherwise than the first.
ABLATIONS: dict[str, tuple[int, tuple[str, str], set[str], set[str]]] = {
    "baseline": (1, ("cifar10", "bt"), {"epochs"}, set()),
    "bt-loss": (
        9,
        BASELINE,
        set(),
        LOSS | settings("l2_normalise", "standardisation", "lambda_bt") | {"projector.batch_norm"},
    ),
    "bt-batch-size": (7, BASELINE, set(), LARGE_BATCH),
    "bt-augmentations": (4, BASELINE, set(), REMOVED),
    "bt-projector-depth": (5, BASELINE, set(), {"projector.hidden"}),
    "bt-projector-width": (12, BASELINE, {"embedding_dim"}, WIDTH),
    "bt-symmetry": (4, BASELINE, set(), ASYMMETRY),
    "bt-lambda": (8, BASELINE, set(), settings("lambda_bt")),
    "bt-autocorrelation": (2, ("ablations/bt-loss", "paper-form"), set(), LOSS),
    "mix-lambda-reg": (9, ("cifar10", "bt"), set(), MIX),
    "mix-width": (2, ("cifar10", "bt"), {"epochs", "embedding_dim"}, {"embedding_dim", *MIX}),
    "few-images": (
        2,
        ("cifar10", "bt"),
        {"data.fraction", "embedding_dim"},
        {"embedding_dim", *MIX},
    ),
    "few-images-small": (
        2,
        ("cifar10-small", "bt"),
        {"data.fraction", "batch_size", "epochs", "embedding_dim"},
        MIX,
    ),
    "byol-heads": (
        7,
        ("comparison/cifar10", "byol"),
        set(),
        WIDTH | settings("predictor.hidden"),
    ),
    "rivals": (
        26,
        ("comparison/cifar10", "simclr"),
        {"epochs", "embedding_dim"},
        settings("objective", "temperature", "bn_last", "base_momentum")
        | settings(*(f"predictor.{key}" for key in Projector.model_fields))
        | {"embedding_dim", *LARGE_BATCH}
        | {f"schedule.{key}" for key in (*StepCosine.model_fields, *Drops.model_fields)}
        | views("crop_scale", "grayscale_p", "jitter_p", "flip_p", "interpolation", "crop_last"),
    ),
    "budget": (12, ("cifar10", "bt"), TRUNK, TRUNK | MIX),
    "digits-budget": (3, ("demo", "bt"), {*TRUNK, "schedule.warmup_epochs"}, TRUNK),
    "imagenet": (
        40,
        ("imagenet", "bt"),
        {"epochs"},
        LOSS
        | ASYMMETRY
        | WIDTH
        | REMOVED
        | views("blur_p")
        | settings("lambda_bt")
        | {"recipe.view_b.solarise_p", "projector.batch_norm", "batch_size", "schedule.base_lr"},
    ),
}


def test_every_ablation_is_listed() -> None:
    assert {name for name in PATHS if name.startswith("ablations/")} == {
        f"ablations/{name}" for name in ABLATIONS
    }


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_asks_about_and_nothing_else(name: str) -> None:
    methods, start, once, varied = ABLATIONS[name]
    this = study(f"ablations/{name}")
    runs = this.trained()
    assert len(this.methods) == methods
    assert changed(runs[0], run(*start)) == once
    assert set().union(*(changed(runs[0], each) for each in runs)) == varied


def column(name: str, key: str) -> list[Any]:
    """A field of each method's first run in an ablation, the first method left out."""
    methods = list(study(f"ablations/{name}").methods)[1:]
    return [flat(run(f"ablations/{name}", method).model_dump()).get(key) for method in methods]


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("bt-loss", "only-invariance", LOSS),
        ("bt-loss", "only-redundancy", LOSS),
        ("bt-loss", "feature-sum", LOSS),
        ("bt-loss", "feature-mean", LOSS),
        ("bt-loss", "no-projector-norm", {"projector.batch_norm"}),
        ("bt-loss", "no-normalisation", {*LOSS, "projector.batch_norm"}),
        ("bt-loss", "cross-entropy", {*LOSS, "settings.lambda_bt"}),
        ("bt-autocorrelation", "auto-correlation", LOSS),
    ],
)
def test_a_loss_variant_is_the_papers_form_but_for_one_point(
    name: str, method: str, expected: set[str]
) -> None:
    """BT paper, table 5."""
    form = run(f"ablations/{name}", "paper-form")
    assert changed(form, run(f"ablations/{name}", method)) == expected
    assert changed(run("ablations/imagenet", "bt"), run("ablations/imagenet", method)) == expected
    assert form.settings.model_dump() | {"lambda_bt": 0.0051} == (
        run("imagenet", "bt").settings.model_dump()
    )


def test_batch_sizes_have_the_papers_tuned_rates() -> None:
    """Issue barlowtwins #7; figure 2."""
    assert column("bt-batch-size", "batch_size") == [128, 256, 512, 1024, 2048, 4096]
    assert column("bt-batch-size", "schedule.base_lr") == [0.7, 0.4, 0.3, 0.25, 0.2, 0.2]
    lars = LARS(name="lars", weight_decay=1e-6)
    for method in ("n128", "n2048"):
        assert run("ablations/bt-batch-size", method).optimizer == lars
    assert peak_rate(run("ablations/bt-batch-size", "n128")) == pytest.approx(0.35)
    on_imagenet = {
        each.batch_size: each.schedule.base_lr for each in study("ablations/imagenet").trained()
    }
    assert on_imagenet == dict(
        zip([128, 256, 512, 1024, 2048, 4096], [0.7, 0.4, 0.3, 0.25, 0.2, 0.2], strict=True)
    )


def test_augmentations_go_in_the_order_of_figure_3() -> None:
    steps = {"no-grayscale": "no-grayscale", "no-colour": "no-colour", "crop-only": "crop"}
    for method, step in steps.items():
        small, large = (
            run(f"ablations/{name}", method) for name in ("bt-augmentations", "imagenet")
        )
        assert small.recipe == RECIPES[f"mix-cifar-{step}"]
        assert large.recipe == RECIPES[f"byol-imagenet-{step}"]
    blurred = run("ablations/imagenet", "crop-blur")
    assert blurred.recipe == RECIPES["byol-imagenet-crop-blur"]


def test_projectors_have_the_depths_and_widths_of_the_paper() -> None:
    """BT paper, figure 4 and section 4; issue barlowtwins #48: all layers of one width."""
    depths = [len(hidden) + 1 for hidden in column("bt-projector-depth", "projector.hidden")]
    assert depths == [1, 2, 3, 4]
    widths = column("bt-projector-width", "embedding_dim")
    assert widths == FIGURE_4 == list(study("ablations/bt-projector-width").embedding_dims)
    assert column("bt-projector-width", "projector.hidden") == [(width,) * 2 for width in widths]
    runs = study("ablations/imagenet").trained()
    wide = [each for each in runs if each.method == "bt" or each.method.startswith("all-")]
    assert sorted(each.embedding_dim for each in wide) == FIGURE_4
    assert all(each.projector.hidden == (each.embedding_dim,) * 2 for each in wide)
    deep = [each for each in runs if each.method == "bt" or each.method.startswith("layers-")]
    assert sorted(len(each.projector.hidden) + 1 for each in deep) == [1, 2, 3, 4]
    assert all(not each.projector.output_bias for each in runs)


def test_the_symmetry_is_broken_as_in_table_6() -> None:
    assert column("bt-symmetry", "settings.stop_gradient") == [True, False, True]
    for name, width in (("bt-symmetry", 1024), ("imagenet", 8192)):
        for method in ("predictor", "both"):
            each = run(f"ablations/{name}", method)
            predictor = each.settings.model_dump()["predictor"]
            assert predictor == Projector(hidden=(width,)).model_dump()
            assert each.embedding_dim == width
        assert run(f"ablations/{name}", "stop-gradient").settings.model_dump()["predictor"] is None


def test_lambdas_are_those_of_figure_5_and_of_mix() -> None:
    figure_5 = [0.002, 0.005, 0.007, 0.01, 0.015, 0.02]
    assert column("bt-lambda", "settings.lambda_bt") == [0.0009765, *figure_5]
    on_imagenet = [
        each.settings.model_dump()["lambda_bt"]
        for each in study("ablations/imagenet").trained()
        if each.method.startswith("lambda-")
    ]
    assert on_imagenet == figure_5
    assert column("mix-lambda-reg", "settings.lambda_reg") == [0, 0.0025, 0.1, 1, 2, 3, 4, 5]
    assert set(column("mix-lambda-reg", "settings.convention")) == {"small-data"}
    assert changed(run("ablations/mix-lambda-reg", "mix-4"), run("cifar10", "mix")) == set()


def test_widths_are_those_of_mixs_sweep() -> None:
    this = study("ablations/mix-width")
    assert this.embedding_dims == (128, 1024, 2048, 4096)
    assert {each.epochs for each in this.trained()} == {1000}
    assert len(this.trained()) == 2 * 4 * 3


@pytest.mark.parametrize("data", COMPARISONS)
def test_the_fixed_rate_is_that_of_mixs_sweep(data: str) -> None:
    """MIX f915e4e, "Experiments with fixed LR": file names, main.py's `step` and its defaults."""
    this, twin = study(f"fixed-rate/{data}"), study(f"fixed-rate/{data}-clean")
    assert list(this.methods) == list(twin.methods) == ["bt", "mix", "mix-4"]
    assert this.embedding_dims == (128, 1024, 2048, 4096)
    assert (this.seeds, this.protocol) == ((1,), "reference")
    assert (twin.seeds, twin.protocol) == ((1, 2, 3), "clean")
    assert set(this.milestones) >= {0, *range(50, 901, 50), 945, 1000}
    first = this.trained()[0]
    assert first.backbone.name == "resnet50"
    assert changed(first, run(data, "bt")) - {"settings.lambda_bt", "embedding_dim"} == {
        "backbone.name",
        "epochs",
        "protocol",
        *(f"schedule.{key}" for key in (*MixCosine.model_fields, *Drops.model_fields)),
    }
    assert changed(first, twin.trained()[0]) == {"protocol"}
    for each in this.trained():
        assert getattr(each.settings, "lambda_bt", None) == 1 / 128
        assert getattr(each.settings, "lambda_reg", None) == {"mix": 5, "mix-4": 4}.get(each.method)
        assert {learning_rate(each, epoch, 0, 195) for epoch in (0, 10, 500, 949)} == {1e-3}
        assert learning_rate(each, 950, 0, 195) == pytest.approx(2e-4)
        assert learning_rate(each, 975, 0, 195) == pytest.approx(4e-5)


@pytest.mark.parametrize("data", COMPARISONS)
def test_the_reference_is_that_of_mixs_readme(data: str) -> None:
    """README 3.1, 3.2, main.py (kNN every 5 epochs), linear.py, the first upload's scripts."""
    this, probed = study(f"reference/{data}"), study(f"reference/{data}-linear")
    assert (this.protocol, probed.milestones_from) == ("reference", f"reference/{data}")
    assert this.milestones == tuple(range(0, 2001, 5))
    assert this.probes.variants() == [("knn", "k=200 T=0.5")]
    assert probed.probes.variants() == [("linear", "mix-small"), ("linear", "mix-small-500")]
    assert probed.trained() == this.trained()
    for method in ("bt", "mix"):
        small, large = (run(f"reference/{data}", name) for name in (method, f"{method}-r50"))
        assert changed(small, run(data, method)) == {"protocol"}
        shorter = {"epochs"} if data == "cifar10" else set()
        assert changed(small, large) == {"backbone.name"} | shorter
        assert large.backbone.name == "resnet50"
        assert large.epochs == (1000 if data == "cifar10" else 2000)
        assert probed.milestones_of(large)[-1] == large.epochs


def test_the_small_fixed_rate_study_has_the_rate_of_the_large_one() -> None:
    small, large = study("fixed-rate/small"), study("fixed-rate/cifar10")
    assert small.schedule == large.schedule
    assert {name: small.methods[name] for name in ("bt", "mix")} == {
        name: large.methods[name] for name in ("bt", "mix")
    }
    assert set(small.embedding_dims) < set(large.embedding_dims)


def test_rivals_have_their_papers_batches_widths_and_views() -> None:
    """BT paper, figures 2 to 4; BYOL paper, tables 14b, 16 and 17; SimCLR paper, B.1.

    LARS: SimCLR's run.py; of BYOL's configs/byol.py the presets for 300 epochs, which it takes too.
    """
    this = study("ablations/rivals")
    for rival in ("simclr", "byol"):
        series = [
            run for run in this.trained() if run.method.startswith(f"{rival}-n") and run.seed == 1
        ]
        batches = {each.batch_size: each for each in series if each.method[-1].isdigit()}
        assert list(batches) == [64, 128, 256, 512, 1024, 2048, 4096]
        for batch, each in batches.items():
            assert each.optimizer == LARS(name="lars", weight_decay=1e-6, bias_lr_ratio=1.0)
            assert peak_rate(each) == pytest.approx(0.3 * batch / 256)
        widths = [
            each.embedding_dim
            for name in (rival, f"{rival}-wide")
            for each in this.trained()
            if each.method == name and each.seed == 1
        ]
        assert sorted(set(widths)) == FIGURE_4[:-1]
        for ours, recipe in [
            ("full", "mix-cifar"),
            ("no-grayscale", "mix-cifar-no-grayscale"),
            ("no-colour", "mix-cifar-no-colour"),
            ("crop-only", "mix-cifar-crop"),
        ]:
            assert run("ablations/rivals", f"{rival}-{ours}").recipe == RECIPES[recipe]


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "tiny-imagenet"])
def test_the_w_mse_papers_settings_are_its_codes_defaults(data: str) -> None:
    """htdt/self-supervised, cfg.py and README: batch 512, no epsilon; 1000 epochs."""
    this = study(f"comparison/{data}-w-mse")
    large = data == "tiny-imagenet"
    for each in this.trained():
        theirs = run(f"comparison/{data}", each.method)
        assert each.recipe == theirs.recipe
        assert (each.optimizer, each.projector) == (theirs.optimizer, theirs.projector)
        assert (each.batch_size, each.epochs, each.protocol) == (512, 1000, "reference")
        assert each.embedding_dim == (128 if large else 64)
        assert each.schedule == Drops(
            name="drops",
            base_lr=0.002 if large else 0.003,
            factor=0.2,
            at=(-50, -25),
            warmup_steps=500,
        )
    w_mse = this.methods["w-mse"].model_dump()
    expected = (256, 4) if large else (128, 1)
    assert (w_mse["sub_batch"], w_mse["iterations"], w_mse["epsilon"]) == (*expected, 0)
    assert this.probes.variants() == [
        ("knn", "k=5 unweighted euclidean"),
        ("linear", "ssl-sota"),
    ]


def test_byols_heads_are_those_of_table_7() -> None:
    """BT paper: projector - width; predictor - width."""
    hidden = [(4096,), *[(4096, 4096)] * 4, (8192, 8192)]
    assert column("byol-heads", "projector.hidden") == hidden
    assert column("byol-heads", "embedding_dim") == [256, 256, 256, 512, 512, 8192]
    shallow, deep = (4096,), (4096, 4096)
    predictors = [shallow, shallow, deep, shallow, deep, (8192,)]
    assert column("byol-heads", "settings.predictor.hidden") == predictors


@pytest.mark.parametrize("name", ["budget", "digits-budget"])
def test_a_trunk_with_its_cool_down_has_the_budget_of_a_cosine(name: str) -> None:
    this = study(f"ablations/{name}")
    cosine = [each for each in this.trained() if each.epochs is not None]
    trunks = [each for each in this.trained() if each.epochs is None]
    assert {each.method for each in trunks} == set(this.methods) & {"bt", "mix"}
    for trunk in trunks:
        assert isinstance(trunk.schedule, Trunk)
        budgets = {m + trunk.cooldown_epochs for m in this.milestones_of(trunk)}
        for each in cosine:
            assert each.epochs in budgets
            assert each.epochs in this.milestones_of(each)
            # Both come down from the same peak, to the same floor within the last steps.
            assert peak_rate(each) == peak_rate(trunk)
            start = each.epochs - trunk.cooldown_epochs
            ends = (
                learning_rate(trunk, each.epochs, 0, 10, cooldown_from=start),
                learning_rate(each, each.epochs - 1, 0, 10),
            )
            assert ends == pytest.approx([0.001 * peak_rate(trunk)] * 2, rel=0.01)
