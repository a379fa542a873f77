"""Learning rates and other schedules, at the points that a case lists."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from barlow_atlas.nn.optim import drops, exponential, half_cosine, learning_rate, peak_rate
from barlow_atlas.objectives.mixed_barlow_twins import regulariser_scale
from barlow_atlas.settings.training import (
    BTCosine,
    Drops,
    EpochCosine,
    MixCosine,
    Schedule,
    StepCosine,
    Trunk,
)
from barlow_atlas.verify.values import Mismatch

Point = dict[str, Any]
Values = dict[str, Any]


def outputs(case: dict[str, Any]) -> list[Values]:
    params, name = case["params"], case["schedule"]
    if name not in SCHEDULES:
        raise Mismatch(f"unknown schedule {name!r}; known: {', '.join(SCHEDULES)}")
    points = []
    for point in case["outputs"]:
        values = SCHEDULES[name](params, point)
        if "batch_index" in point:
            step = point["epoch"] * params["batches_per_epoch"] + point["batch_index"]
            values["schedule_step"] = step
        place = ("epoch", "batch_index", "cooldown_from")
        asked = {key: point[key] for key in place if key in point}
        points.append(asked | values)
    return points


def _rate(
    schedule: Schedule,
    params: dict[str, Any],
    epoch: int,
    step: int = 0,
    cooldown_from: int | None = None,
) -> float:
    """The pre-training rate of a batch of an epoch, both from 0."""
    run = SimpleNamespace(
        schedule=schedule, batch_size=params.get("batch_size", 256), epochs=params.get("epochs")
    )
    return learning_rate(run, epoch, step, params.get("batches_per_epoch", 1), cooldown_from)


def _mix_small_cosine(params: dict[str, Any], point: Point) -> Values:
    schedule = MixCosine(name="mix_cosine", base_lr=params["lr"])
    return {"lr": _rate(schedule, params, point["epoch"] - 1, point["batch_index"])}


def _bt_imagenet(params: dict[str, Any], point: Point) -> Values:
    rates = {}
    for name in ("lr_weights", "lr_biases"):
        schedule = BTCosine(name="bt_cosine", base_lr=params[name])
        rates[name] = _rate(schedule, params, point["epoch"], point["batch_index"])
    return rates


def _mix_imagenet(params: dict[str, Any], point: Point) -> Values:
    place = point["epoch"] + point["batch_index"] / params["batches_per_epoch"]
    scale = params["lambda_reg"] * regulariser_scale(place, 10)
    return _bt_imagenet(params, point) | {"lambda_reg_scale": scale}


def _vicreg(params: dict[str, Any], point: Point) -> Values:
    schedule = BTCosine(name="bt_cosine", base_lr=params["base_lr"])
    return {"lr": _rate(schedule, params, point["epoch"], point["batch_index"])}


def _mix_small_step(params: dict[str, Any], point: Point) -> Values:
    schedule = Drops(name="drops", base_lr=1e-3, factor=0.2, at=(-50, -25))
    return {"lr": _rate(schedule, params, point["epoch"] - 1)}


def _ssl_sota_pretrain(params: dict[str, Any], point: Point) -> Values:
    schedule = Drops(
        name="drops", base_lr=params["lr"], factor=0.2, at=(-50, -25), warmup_steps=500
    )
    return {"lr": _rate(schedule, params, point["epoch"], point["batch_index"])}


def _moco(params: dict[str, Any], point: Point) -> Values:
    if not params["cos"]:
        return {"lr": params["lr"] * drops(point["epoch"], params["schedule"], 0.1)}
    schedule = EpochCosine(name="epoch_cosine", base_lr=params["lr"])
    return {"lr": _rate(schedule, params, point["epoch"])}


def _simsiam(params: dict[str, Any], point: Point) -> Values:
    schedule = EpochCosine(name="epoch_cosine", base_lr=params["init_lr"])
    fixed = peak_rate(SimpleNamespace(schedule=schedule, batch_size=256, epochs=params["epochs"]))
    return {"lr": _rate(schedule, params, point["epoch"]), "lr_predictor_fixed": fixed}


def _linear_probe(params: dict[str, Any], point: Point) -> Values:
    return {"lr": 1e-2 * exponential(point["epoch"] - 1, params["epochs"], 1e-4)}


def _mix_transfer(params: dict[str, Any], point: Point) -> Values:
    return {"lr": 1e-2 * drops(point["epoch"] - 1, (60, 80), 0.1)}


def _bt_linear_eval(params: dict[str, Any], point: Point) -> Values:
    return {"lr": params["lr_classifier"] * half_cosine(point["epoch"] - 1, params["epochs"])}


def _bt_semisup_eval(params: dict[str, Any], point: Point) -> Values:
    share = half_cosine(point["epoch"] - 1, params["epochs"])
    return {"lr": [params["lr_classifier"] * share, params["lr_backbone"] * share]}


def _solo_warmup_cosine(params: dict[str, Any], point: Point) -> Values:
    schedule = StepCosine(
        name="step_cosine",
        base_lr=params["lr"],
        warmup_epochs=params["warmup_epochs"],
        start_lr=params["warmup_start_lr"],
    )
    return {"lr": _rate(schedule, params, point["epoch"], point["batch_index"])}


def _trunk(params: dict[str, Any], point: Point) -> Values:
    schedule = Trunk(
        name="trunk",
        base_lr=params["lr"],
        warmup_epochs=params["warmup_epochs"],
        cooldown_epochs=params["cooldown_epochs"],
    )
    place = point["epoch"], point["batch_index"]
    return {"lr": _rate(schedule, params, *place, point.get("cooldown_from"))}


def _moco_v2_plus_tau(params: dict[str, Any], point: Point) -> Values:
    from torch import Generator

    from barlow_atlas.objectives.base import Moment
    from barlow_atlas.objectives.moco_v2 import MoCoV2

    settings = MoCoV2(
        objective="moco_v2", momentum=params["base_tau"], final_momentum=params["final_tau"]
    )
    steps, epochs = params["batches_per_epoch"], params["epochs"]
    moment = Moment(point["epoch"], point["batch_index"], steps, epochs, Generator())
    return {"tau": settings.momentum_at(moment)}


def _byol_tau(params: dict[str, Any], point: Point) -> Values:
    from barlow_atlas.objectives.byol import target_momentum

    return {"tau": target_momentum(point["epoch"] / params["epochs"], params["byol_tau"])}


SCHEDULES: dict[str, Callable[[dict[str, Any], Point], Values]] = {
    "mix_small_cosine": _mix_small_cosine,
    "mix_small_step": _mix_small_step,
    "bt_imagenet": _bt_imagenet,
    "mix_imagenet": _mix_imagenet,
    "vicreg": _vicreg,
    "mix_linear_probe": _linear_probe,
    "mix_transfer": _mix_transfer,
    "bt_linear_eval": _bt_linear_eval,
    "bt_semisup_eval": _bt_semisup_eval,
    "ssl_sota_linear_probe": _linear_probe,
    "ssl_sota_pretrain": _ssl_sota_pretrain,
    "byol_tau": _byol_tau,
    "solo_warmup_cosine": _solo_warmup_cosine,
    "moco_v2_plus_tau": _moco_v2_plus_tau,
    "trunk": _trunk,
    "moco": _moco,
    "simsiam": _simsiam,
}
