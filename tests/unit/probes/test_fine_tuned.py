"""Fine-tuning on few labels: which labels, a loop in plain torch, ended and gone on with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from photographs import CLASSES, class_folders
from pydantic import ValidationError
from ruamel.yaml import YAML
from torch import nn

from barlow_atlas.data.choice import Data
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import Prepared, load
from barlow_atlas.errors import AtlasError
from barlow_atlas.nn import views
from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes import fine_tuned as probing
from barlow_atlas.probes import state
from barlow_atlas.probes.features import extract
from barlow_atlas.probes.fine_tuned import FineTuned, drawn_rows, labelled_rows, rate_factor
from barlow_atlas.probes.heads import normal_start, shuffled
from barlow_atlas.probes.linear import CROP_AND_FLIP, resized_and_cropped
from barlow_atlas.probes.milestone import Labelled, Milestone, ProbeError, choose
from barlow_atlas.probes.packing import unpack
from barlow_atlas.settings.augmentation import RECIPES
from barlow_atlas.study.models import Probes, Run, Study

CPU = torch.device("cpu")
CLEAN = FineTuned(
    labels=0.2, epochs=4, batch_size=32, backbone_rates=[0.005, 0.05], head_rates=[0.5]
)
REFERENCE = FineTuned(labels=0.2, form="bt-code", epochs=4, batch_size=25)


def milestone_of(run: Run, splits: dict[str, Labelled], **more: Any) -> Milestone:
    network = build(run.architecture, generator(0, "weights"))
    kept = {k: v for k, v in splits.items() if run.protocol == "clean" or k != "validation"}
    return Milestone(network, run, kept, 10, CPU, **more)


def asked(milestone: Milestone, *settings: FineTuned) -> list[dict[str, Any]]:
    return list(FineTuned.run(settings, milestone))


@pytest.fixture
def reference_run(tiny_run: Run) -> Run:
    return tiny_run.model_copy(update={"protocol": "reference"})


# Settings


def test_the_published_forms_have_the_published_values() -> None:
    code, paper = (FineTuned(labels=0.01, form=form) for form in ("bt-code", "bt-paper"))
    assert (code.backbone_rates, code.head_rates) == ((0.005,), (0.5,))
    assert (paper.backbone_rates, paper.head_rates) == ((0.002,), (0.5,))
    assert {(form.epochs, form.batch_size) for form in (code, paper)} == {(20, 256)}
    for form in (code, paper):
        assert form.fault("reference") is None
        assert "clean protocol admits the form standard only" in (form.fault("clean") or "")
    assert CLEAN.fault("clean") is None
    assert "one of backbone_rates and one of head_rates" in (CLEAN.fault("reference") or "")


def test_rates_fall_as_published() -> None:
    paper = FineTuned(labels=0.01, form="bt-paper")
    assert [rate_factor(paper, epoch) for epoch in range(20)] == pytest.approx(
        [1] * 12 + [0.2] * 4 + [0.04] * 4
    )
    code = FineTuned(labels=0.01, form="bt-code")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for epoch in range(20):
        assert rate_factor(code, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("labels", [0.0, 1.5, -0.1, "5percent", "../1percent"])
def test_labels_are_a_share_or_the_name_of_a_list(labels: float | str) -> None:
    with pytest.raises(ValidationError, match="a share of the labels above 0"):
        FineTuned(labels=labels)


def test_a_published_list_is_not_drawn() -> None:
    with pytest.raises(ValidationError, match="leave `label_seed` out"):
        FineTuned(labels="1percent", label_seed=3)


def test_a_published_list_belongs_to_images_as_their_files_have_them(tiny_run: Run) -> None:
    demo = YAML(typ="safe").load(Path("params/demo.yaml"))
    with pytest.raises(ValidationError, match=r"digits is stored as squares: draw a share, as"):
        Study.model_validate(demo | {"probes": {"fine_tuned": {"labels": "1percent"}}})
    assert FineTuned(labels=0.1).fault_of_run(tiny_run) is None


def test_names_tell_numbers_apart() -> None:
    several = [
        {"labels": 0.01},
        {"labels": 0.1},
        {"labels": 0.01, "label_seed": 3},
        {"labels": 0.01, "label_seed": None},
        {"labels": "1percent"},
    ]
    assert [
        variant for _, variant in Probes.model_validate({"fine_tuned": several}).variants()
    ] == [
        "1% standard",
        "10% standard",
        "1% standard, labels 3",
        "1% standard, labels by seed",
        "1percent standard",
    ]


# Labels


def test_a_share_holds_the_classes_in_their_proportions() -> None:
    labels = np.repeat(np.arange(4), [400, 200, 200, 200])
    few, more = drawn_rows(labels, 0.01, 0), drawn_rows(labels, 0.1, 0)
    assert np.bincount(labels[few]).tolist() == [4, 2, 2, 2]
    assert np.bincount(labels[more]).tolist() == [40, 20, 20, 20]
    assert np.isin(few, more).all()
    assert_array_equal(few, np.sort(few))
    assert_array_equal(drawn_rows(labels, 0.01, 0), few)
    assert not np.array_equal(drawn_rows(labels, 0.01, 1), few)
    # As they are, for ever.
    assert few.tolist() == [11, 150, 196, 269, 403, 504, 600, 608, 855, 921]


def test_without_a_seed_of_their_own_labels_follow_the_run_s(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    by_seed = CLEAN.model_copy(update={"label_seed": None})
    first, second = (
        milestone_of(tiny_run.model_copy(update={"seed": seed}), splits) for seed in (1, 2)
    )
    assert_array_equal(labelled_rows(CLEAN, first), labelled_rows(CLEAN, second))
    assert not np.array_equal(labelled_rows(by_seed, first), labelled_rows(by_seed, second))
    given = CLEAN.model_copy(update={"label_seed": 2})
    assert_array_equal(labelled_rows(by_seed, second), labelled_rows(given, first))


def test_a_class_without_a_label_is_refused(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    with pytest.raises(ProbeError, match=r"0\.02 of the 300 training labels are 6, and none is of"):
        asked(milestone_of(tiny_run, splits), CLEAN.model_copy(update={"labels": 0.02}))


LISTED = [0, 1, 8, 9, 16, 17]
"""Of 18 images, two of each class."""


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Photographs with a published list of labels beside them."""
    root = tmp_path_factory.mktemp("listed")
    folders = class_folders(root / "images")
    names = [path.name for path in sorted((folders / "train").rglob("*.JPEG"))]
    (folders / "1percent.txt").write_text("".join(f"{names[place]}\n" for place in LISTED))
    data = Data.model_validate({"name": "mine", "path": str(folders), "stored": "original"})
    prepare(data.data_set, root / "out", root)
    return load(root / "out")


def of_photographs(run: Run, prepared: Prepared) -> Milestone:
    recipe = RECIPES["byol-imagenet"].model_copy(update={"evaluation_resize": 20})
    run = run.model_copy(update={"image_size": 16, "recipe": recipe})
    chosen = prepared.select(run.protocol, 1.0)
    train = prepared.train_images, prepared.train_labels
    splits = {
        "train": choose(*train, chosen.probe_training),
        "test": choose(prepared.test_images, prepared.test_labels, chosen.test),
    }
    if len(chosen.validation):
        splits["validation"] = choose(*train, chosen.validation)
    network = build(run.architecture, generator(1, "weights"))
    return Milestone(network, run, splits, len(CLASSES), CPU)


def test_published_lists_choose_the_labels(
    tiny_run: Run, reference_run: Run, listed: Prepared
) -> None:
    settings = FineTuned(
        labels="1percent", epochs=2, batch_size=3, backbone_rates=[0.01], head_rates=[0.1]
    )
    reference, clean = (of_photographs(run, listed) for run in (reference_run, tiny_run))
    assert labelled_rows(settings, reference).tolist() == LISTED
    last, _ = asked(reference, settings)
    assert (last["settings"]["labels"], last["settings"]["labelled"]) == ("1percent", 6)
    # In the clean protocol without what is held out.
    held_out = set(listed.validation_index.tolist())
    training = listed.select("clean", 1.0).probe_training
    chosen = set(training[labelled_rows(settings, clean)].tolist())
    assert chosen == set(LISTED) - held_out


def test_a_list_that_is_not_there_is_named(reference_run: Run, listed: Prepared) -> None:
    settings = FineTuned(labels="10percent", form="bt-code")
    with pytest.raises(
        ProbeError, match=r"no list of labels '10percent', there are 1percent\. Put"
    ):
        asked(of_photographs(reference_run, listed), settings)


# Training


def test_it_is_the_loop_of_barlow_twins(reference_run: Run, splits: dict[str, Labelled]) -> None:
    milestone = milestone_of(reference_run, splits)
    before = {k: v.clone() for k, v in milestone.network.backbone.state_dict().items()}
    last, best = asked(milestone, REFERENCE)
    for name, value in milestone.network.backbone.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the given network changed"
    # evaluate.py with --weights finetune: all is trained, in train mode, at two rates.
    seed, own = reference_run.seed, resized_and_cropped(reference_run)
    rows = labelled_rows(REFERENCE, milestone)
    images, labels = splits["train"].images[rows], torch.from_numpy(splits["train"].labels[rows])
    backbone = build(reference_run.architecture, generator(0, "weights")).backbone
    width = extract(backbone, own, images[:1], CPU).shape[1]
    head = nn.Linear(width, 10)
    start = normal_start(width, 10, generator(seed, "fine_tuned"))
    with torch.no_grad():
        head.weight.copy_(start[:-1].T)
        head.bias.copy_(start[-1])
    optimizer = torch.optim.SGD(
        [
            {"params": backbone.parameters(), "lr": 0.005},
            {"params": head.parameters(), "lr": 0.5},
        ],
        lr=0.0,
        momentum=0.9,
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    test, found = torch.from_numpy(splits["test"].labels), []
    for epoch in range(4):
        backbone.train()
        for step, batch in enumerate(shuffled(60, 25, seed, "fine_tuned", epoch)):
            view = views.drawn(
                torch.from_numpy(images[batch.numpy()]),
                CROP_AND_FLIP,
                own.image_size,
                own.recipe.mean,
                own.recipe.std,
                generator(seed, "fine_tuned", epoch, step),
            )
            loss = nn.functional.cross_entropy(head(backbone(view)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        with torch.no_grad():
            scores = head(extract(backbone, own, splits["test"].images, CPU))
        found.append((scores.argmax(1) == test).numpy())
    assert_array_equal(unpack(last["correct"], 300), found[-1])
    place = int(np.argmax([correct.mean() for correct in found]))
    assert_array_equal(unpack(best["correct"], 300), found[place])
    assert (best["settings"]["epoch"], last["settings"]["epoch"]) == (place + 1, 4)
    assert (best["settings"]["chosen_on"], last["settings"]["chosen_on"]) == ("test", "nothing")
    assert last["settings"]["labelled"] == 60
    assert [FineTuned.variant(record["settings"]) for record in (last, best)] == [
        "20% bt-code",
        "20% bt-code best on test",
    ]


@pytest.fixture
def told(splits: dict[str, Labelled]) -> dict[str, Labelled]:
    """Images that say their class by their brightness."""
    return {
        split: Labelled(
            np.broadcast_to(
                (25 * each.labels).astype(np.uint8)[:, None, None, None],
                (len(each.labels), 3, 8, 8),
            ),
            each.labels,
        )
        for split, each in splits.items()
    }


def test_images_that_hold_the_label_are_all_told_apart(
    tiny_run: Run, told: dict[str, Labelled]
) -> None:
    settings = FineTuned(
        labels=0.2, epochs=30, batch_size=30, backbone_rates=[0.1], head_rates=[0.1, 0.5]
    )
    records = asked(milestone_of(tiny_run, told), settings)
    assert [(record["split"], record["top1"]) for record in records] == [
        ("validation", 100.0),
        ("test", 100.0),
    ]


def test_the_clean_protocol_chooses_on_validation_images(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    settings = CLEAN.model_copy(update={"backbone_rates": (0.05, 1e-6), "head_rates": (0.5, 1e-6)})
    milestone = milestone_of(tiny_run, splits)
    records = asked(milestone, settings)
    assert [(record["split"], record["count"]) for record in records] == [
        ("validation", 100),
        ("test", 300),
    ]
    chosen = records[0]["settings"]
    assert (chosen["chosen_on"], chosen["epoch_rule"]) == ("validation", "last")
    alone = settings.model_copy(
        update={
            "backbone_rates": (chosen["backbone_rate"],),
            "head_rates": (chosen["head_rate"],),
        }
    )
    assert asked(milestone, alone) == records
    # The others were tried, and the validation images knew nothing better.
    others = [
        asked(milestone, settings.model_copy(update={"backbone_rates": (b,), "head_rates": (h,)}))
        for b in settings.backbone_rates
        for h in settings.head_rates
    ]
    assert records[0]["top1"] == max(other[0]["top1"] for other in others)
    assert len({other[0]["top1"] for other in others}) > 1
    # What the test images say chooses nothing.
    wrong = replace(splits["test"], labels=(splits["test"].labels + 1) % 10)
    again = asked(milestone_of(tiny_run, splits | {"test": wrong}), settings)
    assert again[0] == records[0]


def test_what_diverges_is_never_chosen(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    milestone = milestone_of(tiny_run, splits)
    settings = CLEAN.model_copy(update={"backbone_rates": (1e30, 0.005), "head_rates": (0.5,)})
    assert {record["settings"]["backbone_rate"] for record in asked(milestone, settings)} == {0.005}
    with pytest.raises(ProbeError, match=r"diverged at the rates .* 1e\+30 and 0\.5: add lower"):
        asked(milestone, settings.model_copy(update={"backbone_rates": (1e30,)}))


class Ended(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("protocol", ["clean", "reference"])
def test_ended_after_any_epoch_it_gives_the_same(
    protocol: str,
    tiny_run: Run,
    splits: dict[str, Labelled],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tiny_run.model_copy(update={"protocol": protocol})
    settings = CLEAN if protocol == "clean" else REFERENCE
    undisturbed = asked(milestone_of(run, splits), settings)
    monkeypatch.setattr(state, "SAVED_EVERY", 0.0)
    whole, trained = probing._Training._epoch, []

    def ends(self: probing._Training) -> None:
        whole(self)
        trained.append(self.done)
        if len(trained) % 2 == 0:  # before this epoch is saved
            raise Ended

    monkeypatch.setattr(probing._Training, "_epoch", ends)
    milestone = milestone_of(run, splits, kept=tmp_path)
    ends_met = 0
    while True:
        try:
            found = asked(milestone, settings)
            break
        except Ended:
            ends_met += 1
    assert ends_met >= 3
    assert found == undisturbed
    # An epoch is repeated at each end, and nothing else.
    pairs = len(settings.backbone_rates) * len(settings.head_rates)
    assert len(trained) == pairs * settings.epochs + ends_met


def test_without_long_epochs_nothing_is_kept(
    tiny_run: Run, splits: dict[str, Labelled], tmp_path: Path
) -> None:
    asked(milestone_of(tiny_run, splits, kept=tmp_path), CLEAN)
    assert not list(tmp_path.iterdir())


def test_a_single_image_left_over_is_refused(
    reference_run: Run, splits: dict[str, Labelled]
) -> None:
    settings = REFERENCE.model_copy(update={"batch_size": 59})
    with pytest.raises(AtlasError, match=r"leaves no single image of 60 over"):
        asked(milestone_of(reference_run, splits), settings)
