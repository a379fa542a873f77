"""A linear classifier that is trained along with a network, which does not notice it.

solo-learn's "online linear" (`BaseMethod` in its `solo/methods/base.py`): softmax regression on the
backbone's features of both views, through which no gradient passes; the run's optimizer without
decay, and its schedule from a rate of its own.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from barlow_atlas.nn import processes
from barlow_atlas.nn.devices import sent
from barlow_atlas.nn.networks import Network
from barlow_atlas.nn.optim import build_optimizer, peak_rate, set_learning_rate
from barlow_atlas.nn.processes import SummedGradients
from barlow_atlas.study.models import Run


class Online:
    """Trains the classifier of a network, after each step of the network's own.

    Attributes:
        run: the network's run, with the classifier's base rate in its schedule.
    """

    def __init__(self, run: Run, network: Network) -> None:
        assert network.classifier is not None
        assert run.online_linear is not None
        schedule = run.schedule.model_copy(update={"base_lr": run.online_linear.base_lr})
        self.run = run.model_copy(update={"schedule": schedule})
        self.network = network
        self.classifier = network.classifier.requires_grad_()
        without_decay = run.optimizer.model_copy(update={"weight_decay": 0.0})
        self.optimizer = build_optimizer(without_decay, self.classifier, nn.Module())
        self.gradients = SummedGradients(self.classifier.parameters())
        network.features = []

    def step(self, labels: Tensor | None, batch: Tensor, rate: float) -> Tensor:
        """One step on the features that the network's step has left, and forgets them.

        Args:
            labels: of all images, int64 on the CPU; -1 where there is none.
            batch: places of the step's images, int64 (N,).
            rate: along the schedule of `run`.

        Returns:
            The mean cross-entropy over the labelled images of the batch, a scalar.
        """
        assert labels is not None  # given wherever a run asks for a classifier
        own = batch[processes.own_rows(len(batch))]
        features = self._of_views(len(own))
        truth = sent(labels[own].repeat(len(features) // len(own)), features.device)
        errors = cross_entropy(self.classifier(features), truth, ignore_index=-1, reduction="sum")
        labelled = processes.summed((truth >= 0).sum()).clamp_min(1)
        loss = processes.summed(errors) / labelled
        self.optimizer.zero_grad()
        processes.own_share(loss).backward()
        self.gradients.wait()
        set_learning_rate(self.optimizer, rate, peak_rate(self.run))
        self.optimizer.step()
        return loss.detach()

    def _of_views(self, n: int) -> Tensor:
        """Features (2 n, f) of both views, (n, f) where the method looks at the first alone.

        Methods pass the views first, and in their order; what else they pass is no image with a
        label, such as a mixture of two.
        """
        passed = self.network.features or []
        self.network.features = []
        return torch.cat(passed)[: 2 * n].float()
