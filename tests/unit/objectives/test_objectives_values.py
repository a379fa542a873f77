"""The methods' formulas against plain ones and lightly's, in float64."""

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from barlow_atlas.nn.networks import Network
from barlow_atlas.objectives import METHODS, borrowed, moco_v2, swav
from barlow_atlas.objectives.asymmetric_barlow_twins import AsymmetricBarlowTwins
from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.barlow_twins_variant import BarlowTwinsVariant, cross_entropy_loss
from barlow_atlas.objectives.base import Moment
from barlow_atlas.objectives.byol import BYOL, target_momentum
from barlow_atlas.objectives.moco_v2 import MoCoV2
from barlow_atlas.objectives.simclr import SimCLR, nt_xent
from barlow_atlas.objectives.simsiam import SimSiam, symmetric_prediction
from barlow_atlas.objectives.swav import SwAV
from barlow_atlas.objectives.vicreg import VICReg
from barlow_atlas.objectives.w_mse import WMSE, SingularCovariance

NOTHING = Network(nn.Identity(), nn.Identity())
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def embeddings(count: int, n: int = 8, d: int = 5, seed: int = 0) -> list[Tensor]:
    """Views (n, d) of one batch that resemble each other."""
    draws = torch.Generator().manual_seed(seed)
    base = torch.randn(n, d, generator=draws, dtype=torch.float64)
    return [
        base + 0.5 * torch.randn(n, d, generator=draws, dtype=torch.float64) for _ in range(count)
    ]


def moment(epoch: int = 0, step: int = 0) -> Moment:
    return Moment(epoch, step, 10, 4, torch.Generator().manual_seed(step))


def gradients_are_right(function: Callable[..., Tensor], *inputs: Tensor) -> bool:
    return torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in inputs])


@pytest.mark.slow
def test_lightly_is_imported_without_the_network() -> None:
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import sys, barlow_atlas.objectives.borrowed\n"
        "assert 'pytorch_lightning' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestSimCLR:
    def test_plain_formula(self) -> None:
        z_a, z_b = embeddings(2)
        z = torch.cat([z_a, z_b])
        terms = []
        for i in range(16):
            others = [math.exp(z[i] @ z[j] / 0.5) for j in range(16) if j != i]
            terms.append(-math.log(math.exp(z[i] @ z[(i + 8) % 16] / 0.5) / sum(others)))
        assert nt_xent(z_a, z_b, 0.5).item() == pytest.approx(np.mean(terms), rel=1e-12)

    def test_lightly_where_it_can_be_compared(self) -> None:
        from lightly.loss import NTXentLoss

        views = embeddings(3)
        settings = SimCLR(objective="simclr", temperature=0.2, bn_last=False)
        found = settings.contrast(nn.Module(), torch.cat(views), 3)
        peer = NTXentLoss(temperature=0.2)
        expected = torch.stack([peer(a, b) for a, b in combinations(views, 2)]).mean()
        torch.testing.assert_close(found, expected, **TIGHT)

    def test_gradients(self) -> None:
        assert gradients_are_right(lambda a, b: nt_xent(a, b, 0.3), *embeddings(2, 4, 3))

    def test_last_batch_norm_sees_both_views(self) -> None:
        views = torch.cat(embeddings(2))
        settings = SimCLR(objective="simclr")
        parts = settings.parts(NOTHING, 5).double()
        whole = (views - views.mean(0)) / (views.var(0, correction=0) + 1e-5).sqrt()
        expected = nt_xent(*normalize(whole).chunk(2), 0.5)
        torch.testing.assert_close(settings.contrast(parts, views, 2), expected, **TIGHT)

    def test_projector_sees_both_views_and_the_backbone_one(self) -> None:
        seen: dict[str, list[int]] = {"backbone": [], "projector": []}

        def note(name: str) -> nn.Module:
            layer = nn.Identity()
            layer.register_forward_hook(lambda _, inputs, __: seen[name].append(len(inputs[0])))
            return layer

        network = Network(note("backbone"), note("projector"))
        settings = SimCLR(objective="simclr", bn_last=False)
        settings.terms(network, nn.Module(), *embeddings(2), moment())
        assert seen == {"backbone": [8, 8], "projector": [16]}


class TestMoCo:
    def settings(self, **changes: float) -> MoCoV2:
        return MoCoV2.model_validate({"objective": "moco_v2", "queue_length": 12} | changes)

    def test_lightly_with_the_same_queue(self) -> None:
        from lightly.loss import NTXentLoss

        q, k = embeddings(2)
        queue = normalize(embeddings(1, 12)[0])
        peer = NTXentLoss(temperature=0.2, memory_bank_size=(12, 5))
        peer.memory_bank.bank = queue
        logits = moco_v2.instance_logits(normalize(q), normalize(k), queue, 0.2)
        torch.testing.assert_close(moco_v2.first_is_right(logits), peer(q, k), **TIGHT)

    def test_gradients(self) -> None:
        q, k = embeddings(2, 4, 3)
        queue = embeddings(1, 6, 3)[0]

        def loss(q: Tensor) -> Tensor:
            return moco_v2.first_is_right(moco_v2.instance_logits(q, k, queue, 0.5))

        assert gradients_are_right(loss, q)

    def test_the_queue_wraps(self) -> None:
        queue, pointer = torch.zeros(6, 1), torch.tensor(0)
        for first in (1, 5, 9):
            keys = torch.arange(first, first + 4.0)[:, None]
            moco_v2.enqueue(queue, pointer, keys)
        assert queue[:, 0].tolist() == [7, 8, 9, 10, 11, 12]
        assert pointer == 0

    def test_keys_come_from_the_moved_encoder_and_join_the_queue_afterwards(self) -> None:
        network = Network(nn.Identity(), nn.Linear(5, 5, bias=False)).double()
        settings = self.settings(momentum=0.75)
        parts = settings.parts(network, 5).double()
        with torch.no_grad():
            network.get_parameter("projector.weight").mul_(3)
        before = parts.get_buffer("queue").clone()
        key_weight = parts.get_parameter("key_encoder.projector.weight")
        expected_weight = 0.75 * key_weight + 0.25 * network.get_parameter("projector.weight")
        q, k = embeddings(2, 4)
        loss = settings.terms(network, parts, q, k, moment())["loss"]
        torch.testing.assert_close(key_weight, expected_weight, **TIGHT)
        keys = normalize(k @ expected_weight.T)
        logits = moco_v2.instance_logits(normalize(network(q)), keys, before, 0.2)
        torch.testing.assert_close(loss, moco_v2.first_is_right(logits), **TIGHT)
        torch.testing.assert_close(parts.get_buffer("queue")[:4], keys.detach(), **TIGHT)
        torch.testing.assert_close(parts.get_buffer("queue")[4:], before[4:], **TIGHT)

    def test_symmetric_is_the_mean_of_both_ways_each_with_a_queue(self) -> None:
        """solo-learn's MoCo v2: queries of one view, keys of the other, and the other way round."""
        network = Network(nn.Identity(), nn.Linear(5, 5, bias=False)).double()
        settings = self.settings(momentum=0.5, final_momentum=0.9, symmetric=True)
        parts = settings.parts(network, 5).double()
        with torch.no_grad():
            network.get_parameter("projector.weight").mul_(3)
        queues = [holder.get_buffer("queue") for holder in (parts, parts.get_submodule("swapped"))]
        assert not torch.equal(*queues)
        before = [queue.clone() for queue in queues]
        key_weight = parts.get_parameter("key_encoder.projector.weight")
        weight = network.get_parameter("projector.weight")
        # Half of training is done: half-way between the two momenta.
        expected_weight = 0.7 * key_weight + 0.3 * weight
        now = Moment(5, 0, 4, 10, torch.Generator())
        a, b = embeddings(2, 4)
        loss = settings.terms(network, parts, a, b, now)["loss"]
        torch.testing.assert_close(key_weight, expected_weight, **TIGHT)
        losses = []
        for queries, images, queue, earlier in (
            (a, b, queues[0], before[0]),
            (b, a, queues[1], before[1]),
        ):
            keys = normalize(images @ expected_weight.T).detach()
            logits = moco_v2.instance_logits(normalize(network(queries)), keys, earlier, 0.2)
            losses.append(moco_v2.first_is_right(logits))
            torch.testing.assert_close(queue[:4], keys, **TIGHT)
            torch.testing.assert_close(queue[4:], earlier[4:], **TIGHT)
        torch.testing.assert_close(loss, sum(losses) / 2, **TIGHT)

    def test_a_momentum_that_stays_leaves_no_trace_in_a_run(self) -> None:
        told = self.settings().model_dump(mode="json")
        assert not {"final_momentum", "symmetric"} & told.keys()
        assert self.settings(final_momentum=0.999).model_dump()["final_momentum"] == 0.999


@pytest.mark.parametrize("objective", ["barlow_twins", "mixed_barlow_twins"])
def test_the_loss_scale_scales_the_loss_alone(objective: str) -> None:
    content: dict[str, Any] = {"objective": objective, "lambda_bt": 0.1}
    if objective == "mixed_barlow_twins":
        content["lambda_reg"] = 2.0
    plain, scaled = (
        METHODS[objective].model_validate(content | scale) for scale in ({}, {"loss_scale": 0.1})
    )
    network = Network(nn.Identity(), nn.Linear(5, 5)).double()
    views = embeddings(2)
    found = [each.terms(network, nn.Module(), *views, moment()) for each in (plain, scaled)]
    torch.testing.assert_close(found[1].pop("loss"), 0.1 * found[0].pop("loss"), **TIGHT)
    assert found[0] == found[1]
    assert "loss_scale" not in plain.model_dump()


class TestBYOL:
    @pytest.mark.parametrize("l2_normalise", [True, False])
    def test_plain_formula(self, l2_normalise: bool) -> None:
        *predictions, t0, t1, t2 = embeddings(6)
        targets = [t0, t1, t2]

        def error(a: Tensor, b: Tensor) -> Tensor:
            if l2_normalise:
                return (normalize(a) - normalize(b)).square().sum(1).mean()
            return mse_loss(a, b)

        pairs = [(0, 1), (0, 2), (1, 2)]
        both = [
            error(predictions[i], targets[j]) + error(predictions[j], targets[i]) for i, j in pairs
        ]
        settings = BYOL(objective="byol", l2_normalise=l2_normalise)
        found = settings.prediction_error(predictions, targets)
        torch.testing.assert_close(found, torch.stack(both).mean(), **TIGHT)

    def test_the_momentum_rises_to_one_along_a_cosine(self) -> None:
        assert target_momentum(0.0, 0.99) == pytest.approx(0.99)
        assert target_momentum(0.5, 0.99) == pytest.approx(0.995)
        assert target_momentum(1.0, 0.99) == 1.0

    def test_the_target_follows_parameters_but_not_statistics(self) -> None:
        network = Network(nn.BatchNorm1d(3), nn.Linear(3, 2))
        settings = BYOL.model_validate({"objective": "byol", "predictor": {"hidden": [4]}})
        parts = settings.parts(network, 2)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)
            network.get_buffer("backbone.running_mean").add_(1)
        start = parts.get_parameter("target.projector.weight").clone()
        settings.after_step(network, parts, moment(epoch=2))
        moved = parts.get_parameter("target.projector.weight")
        torch.testing.assert_close(moved, start + 0.005)
        assert parts.get_buffer("target.backbone.running_mean").eq(0).all()

    def test_larger_predictors_can_be_named(self) -> None:
        settings = BYOL.model_validate({"objective": "byol", "predictor": {"hidden": [16, 16]}})
        parts = settings.parts(NOTHING, 8)
        linear = [m for m in parts.modules() if isinstance(m, nn.Linear)]
        assert [(m.in_features, m.out_features) for m in linear] == [(8, 16), (16, 16), (16, 8)]


class TestSimSiam:
    def test_plain_formula_and_no_gradient_to_targets(self) -> None:
        p_a, p_b, z_a, z_b = (z.requires_grad_() for z in embeddings(4))
        loss = symmetric_prediction(p_a, p_b, z_a, z_b)
        cosines = [(normalize(p) * normalize(z)).sum(1).mean() for p, z in ((p_a, z_b), (p_b, z_a))]
        torch.testing.assert_close(loss, -sum(cosines) / 2, **TIGHT)
        loss.backward()
        assert z_a.grad is None
        assert z_b.grad is None

    def test_the_predictor_is_lightlys(self) -> None:
        from lightly.models.modules import SimSiamPredictionHead

        parts = SimSiam.model_validate(
            {"objective": "simsiam", "predictor": {"hidden": [4]}}
        ).parts(NOTHING, 16)
        peer = SimSiamPredictionHead(16, 4, 16)
        ours, theirs = ([tuple(v.shape) for v in m.state_dict().values()] for m in (parts, peer))
        assert ours == theirs
        x = torch.randn(6, 16)
        peer.load_state_dict(dict(zip(peer.state_dict(), parts.state_dict().values(), strict=True)))
        torch.testing.assert_close(parts.get_submodule("predictor")(x), peer(x))

    def test_only_the_predictor_keeps_its_rate(self) -> None:
        settings = SimSiam(objective="simsiam")
        parts = settings.parts(NOTHING, 8)
        assert len(settings.constant_rate_parameters(parts)) == len(list(parts.parameters()))
        decaying = settings.model_copy(update={"constant_predictor_rate": False})
        assert decaying.constant_rate_parameters(parts) == []


class TestSwAV:
    def settings(self, **changes: float) -> SwAV:
        return SwAV.model_validate({"objective": "swav", "prototypes": 6} | changes)

    def scores(self, crops: int) -> list[Tensor]:
        prototypes = normalize(embeddings(1, 6, seed=1)[0])
        return [normalize(z) @ prototypes.T for z in embeddings(crops)]

    def plain(
        self, scores: list[Tensor], assigned: list[int], queued: list[Tensor] | None
    ) -> float:
        """The paper's loss with Sinkhorn-Knopp in numpy."""
        total = 0.0
        for place, crop in enumerate(assigned):
            rows = scores[crop] if queued is None else torch.cat([queued[place], scores[crop]])
            q = np.exp(rows.numpy() / 0.05)
            for _ in range(3):
                q = q / q.sum(0) / q.shape[1]
                q = q / q.sum(1, keepdims=True) / q.shape[0]
            q = (q / q.sum(1, keepdims=True))[-8:]
            others = [score for other, score in enumerate(scores) if other != crop]
            total += np.mean(
                [-(q * (s / 0.1).log_softmax(1).numpy()).sum(1).mean() for s in others]
            )
        return total / len(assigned)

    @pytest.mark.parametrize("assigned", [[0, 1], [1], [0, 2], [3, 1, 0]])
    @pytest.mark.parametrize("with_queue", [False, True])
    def test_plain_formula(self, assigned: list[int], with_queue: bool) -> None:
        scores = self.scores(4)
        earlier = [scores[0].flip(1), scores[1].flip(1), scores[2].roll(1, 1)]
        queued = earlier[: len(assigned)] if with_queue else None
        found = self.settings().swapped_prediction(scores, queued, assigned)
        assert found.item() == pytest.approx(self.plain(scores, assigned, queued), rel=1e-10)

    def test_prototypes_have_length_one_and_stay_while_frozen(self) -> None:
        network = Network(nn.Identity(), nn.Linear(5, 5)).double()
        settings = self.settings(frozen_prototype_steps=3)
        parts = settings.parts(network, 5).double()
        prototypes = parts.get_parameter("prototypes.weight")
        for step, has_gradient in ((2, False), (3, True)):
            terms = settings.terms(network, parts, *embeddings(2), moment(step=step))
            terms["loss"].backward()
            assert (prototypes.grad is not None) == has_gradient
        torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(6).double())

    def test_the_queue_is_used_once_it_is_full(self) -> None:
        settings = self.settings(queue_length=16, queue_start_epoch=1)
        parts = settings.parts(NOTHING, 5).double()
        z = embeddings(2)
        used = [
            settings.queued_scores(parts, z, moment(epoch, step)) is not None
            for epoch, step in ((0, 9), (1, 0), (1, 1), (1, 2))
        ]
        assert used == [False, False, False, True]

    def test_the_newest_embeddings_stand_first_in_the_queue(self) -> None:
        queue = torch.zeros(2, 4, 1)
        for value in (1.0, 2.0, 3.0):
            swav.enqueue(queue, [torch.full((2, 1), value), torch.full((2, 1), -value)])
        assert queue[:, :, 0].tolist() == [[3, 3, 2, 2], [-3, -3, -2, -2]]


class TestWMSE:
    def settings(self, **changes: float) -> WMSE:
        return WMSE.model_validate({"objective": "w_mse", "sub_batch": 8} | changes)

    def test_each_sub_batch_is_white(self) -> None:
        z = embeddings(1, 24, 3)[0]
        order = torch.randperm(24)
        whitened = self.settings(epsilon=0.0).whiten(z, order)
        for piece in order.view(3, 8):
            torch.testing.assert_close(whitened[piece].T.cov(), torch.eye(3).double(), **TIGHT)

    @pytest.mark.parametrize("l2_normalise", [True, False])
    def test_plain_formula(self, l2_normalise: bool) -> None:
        views = embeddings(3, 16, 3)
        orders = [torch.randperm(16) for _ in range(2)]
        errors = []
        for order in orders:
            white = []
            for view in views:
                rows = np.empty((16, 3))
                for piece in order.view(2, 8).numpy():
                    x = view.numpy()[piece]
                    shrunk = 0.9 * np.cov(x.T) + 0.1 * np.eye(3)
                    rows[piece] = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(shrunk)).T
                white.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
                if not l2_normalise:
                    white[-1] = rows
            scale = 3 if l2_normalise else 1
            errors += [scale * np.mean((a - b) ** 2) for a, b in combinations(white, 2)]
        settings = self.settings(epsilon=0.1, l2_normalise=l2_normalise)
        found = settings.whitened_error(views, orders)
        assert found.item() == pytest.approx(np.mean(errors), rel=1e-10)

    @pytest.mark.parametrize("value", [0.0, float("nan")])
    def test_what_cannot_be_whitened_is_an_error(self, value: float) -> None:
        z = embeddings(1, 16, 3)[0]
        z[:, 1] = value
        with pytest.raises(SingularCovariance, match="has no variance"):
            self.settings(epsilon=0.0).whiten(z, torch.randperm(16))

    def test_sub_batches_are_drawn_from_the_step(self) -> None:
        network = Network(nn.Identity(), nn.Identity())
        views, settings = embeddings(2, 16, 3), self.settings(epsilon=0.1, iterations=2)
        first, again, other = (
            settings.terms(network, nn.Module(), *views, moment(step=step))["loss"]
            for step in (1, 1, 2)
        )
        assert first == again
        assert first != other


class TestVICReg:
    def test_plain_formula(self) -> None:
        z_a, z_b = (0.4 * z for z in embeddings(2))
        off = ~np.eye(5, dtype=bool)
        variance, covariance = 0.0, 0.0
        for z in (z_a.numpy(), z_b.numpy()):
            variance += np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() / 2
            covariance += (np.cov(z.T)[off] ** 2).sum() / 5
        settings = VICReg(objective="vicreg", invariance_weight=2, covariance_weight=3)
        terms = {name: term.item() for name, term in settings.three_terms(z_a, z_b).items()}
        invariance = ((z_a - z_b) ** 2).mean().item()
        assert terms == pytest.approx(
            {
                "loss": 2 * invariance + 25 * variance + 3 * covariance,
                "invariance": invariance,
                "variance": variance,
                "covariance": covariance,
            },
            rel=1e-10,
        )

    def test_a_dead_dimension_costs_variance_and_stays_finite(self) -> None:
        z_a, z_b = embeddings(2)
        z_a[:, 0] = 1
        terms = VICReg(objective="vicreg").three_terms(z_a.requires_grad_(), z_b)
        terms["loss"].backward()
        assert z_a.grad is not None
        assert z_a.grad.isfinite().all()


class TestBarlowTwinsVariants:
    def settings(self, variant: str, **changes: object) -> BarlowTwinsVariant:
        return BarlowTwinsVariant.model_validate(
            {"objective": "barlow_twins_variant", "variant": variant, "lambda_bt": 0.02} | changes
        )

    def loss(self, settings: BarlowTwinsVariant, z_a: Tensor, z_b: Tensor) -> float:
        return settings.twin_terms(settings.prepare(z_a), settings.prepare(z_b))["loss"].item()

    def plain(self, matrix: np.ndarray) -> tuple[float, float]:
        off = ~np.eye(len(matrix), dtype=bool)
        return ((1 - np.diag(matrix)) ** 2).sum(), (matrix[off] ** 2).sum()

    def test_terms_of_the_papers_correlation(self) -> None:
        z_a, z_b = embeddings(2)
        both = np.corrcoef(z_a.numpy().T, z_b.numpy().T)
        invariance, redundancy = self.plain(both[:5, 5:])
        _, own_redundancy = self.plain(both[:5, :5])
        expected = {
            "only_invariance": invariance,
            "only_redundancy": 0.02 * redundancy,
            "auto_correlation": invariance + 0.02 * own_redundancy,
        }
        for variant, value in expected.items():
            assert self.loss(self.settings(variant), z_a, z_b) == pytest.approx(value, rel=1e-10)

    def test_no_normalisation_is_the_covariance(self) -> None:
        z_a, z_b = embeddings(2)
        covariance = np.cov(z_a.numpy().T, z_b.numpy().T, bias=True)[:5, 5:]
        invariance, redundancy = self.plain(covariance)
        expected = invariance + 0.02 * redundancy
        found = self.loss(self.settings("no_normalisation"), z_a, z_b)
        assert found == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize("divide_by_n", [True, False])
    def test_feature_normalisation(self, divide_by_n: bool) -> None:
        rows = []
        for z in embeddings(2):
            x = (z.numpy() - z.numpy().mean(0)) / z.numpy().std(0)
            rows.append(x / np.linalg.norm(x, axis=1, keepdims=True))
        matrix = rows[0].T @ rows[1] / (8 if divide_by_n else 1)
        invariance, redundancy = self.plain(matrix)
        settings = self.settings("feature_normalisation", divide_by_n=divide_by_n)
        found = self.loss(settings, *embeddings(2))
        assert found == pytest.approx(invariance + 0.02 * redundancy, rel=1e-10)

    def test_cross_entropy(self) -> None:
        z_a, z_b = embeddings(2)
        c = np.corrcoef(z_a.numpy().T, z_b.numpy().T)[:5, 5:]
        attraction = sum(math.exp(c[i, i] / 0.1) for i in range(5))
        repulsion = sum(
            math.exp(max(c[i, j], 0) / 0.1) for i in range(5) for j in range(5) if i != j
        )
        expected = -math.log(attraction) + 0.02 * math.log(repulsion)
        found = self.loss(self.settings("cross_entropy", temperature=0.1), z_a, z_b)
        assert found == pytest.approx(expected, rel=1e-10)
        assert gradients_are_right(lambda m: cross_entropy_loss(m, 0.02, 0.5), torch.from_numpy(c))

    def test_the_small_data_form_can_be_ablated_too(self) -> None:
        from barlow_atlas.objectives.barlow_twins import BarlowTwins

        small = {"l2_normalise": True, "standardisation": "unbiased"}
        variant = self.settings("only_invariance", **small)
        whole = BarlowTwins.model_validate({"objective": "barlow_twins", "lambda_bt": 0.02} | small)
        z_a, z_b = embeddings(2)
        terms = whole.twin_terms(whole.prepare(z_a), whole.prepare(z_b))
        assert self.loss(variant, z_a, z_b) == terms["invariance"].item()

    def test_stop_gradient_reaches_view_b_only(self) -> None:
        network = Network(nn.Identity(), nn.Identity())
        settings = AsymmetricBarlowTwins.model_validate(
            {
                "objective": "asymmetric_barlow_twins",
                "lambda_bt": 0.02,
                "stop_gradient": True,
                "predictor": {"hidden": [4]},
            }
        )
        parts = settings.parts(network, 5).double()
        z_a, z_b = (z.requires_grad_() for z in embeddings(2))
        settings.terms(network, parts, z_a, z_b, moment())["loss"].backward()
        assert z_a.grad is not None
        assert z_b.grad is None
        assert all(parameter.grad is not None for parameter in parts.parameters())


def test_borrowed_momentum_moves_parameters_towards_the_model() -> None:
    online, target = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    expected = 0.9 * target.weight + 0.1 * online.weight
    with torch.no_grad():
        borrowed.update_momentum(online, target, 0.9)
    torch.testing.assert_close(target.weight, expected)


@pytest.mark.parametrize("standardisation", ["unbiased", "biased", "batch_norm"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_views_are_prepared_at_once_as_one_by_one(standardisation: Any, ranks: int) -> None:
    """On a GPU the one, on a CPU the other."""
    method = BarlowTwins(
        objective="barlow_twins", lambda_bt=0.01, standardisation=standardisation, ranks=ranks
    )
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(16, 12, generator=generator) + place for place in range(3)]
    one_by_one = method.prepared(views)
    for once, by_itself in zip(
        method.prepare(torch.stack(views, dim=1)).unbind(1), one_by_one, strict=True
    ):
        torch.testing.assert_close(once, by_itself)
