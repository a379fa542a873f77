"""Label-free signals of a milestone: could one have known without labels?

Each signal is a function of embeddings (n, f), one row an image. `signals` computes all of them on
training images and, under the same conditions, on as many held-out ones: a signal that parts the
two shows overfitting of the pre-training itself.

Sums are in float64 on embeddings that a network computed in float32. What is smaller than
`NOISE` times the embeddings' own size is rounding error there, and counts as zero.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from barlow_atlas.nn.networks import Network
from barlow_atlas.nn.randomness import generator
from barlow_atlas.objectives.squared_products import squared_norm_of_product
from barlow_atlas.probes.features import BATCH, Images, drawn
from barlow_atlas.probes.milestone import Milestone, ProbeError
from barlow_atlas.probes.packing import pack_correlations
from barlow_atlas.probes.subject import Subject

MOST_IMAGES = 5000
VIEWS = 512
"""Images whose views are drawn together; another number draws other views."""
NOISE = 1e-6
RANKME_EPS = 1e-7
ALPHA_RANKS = (4, 100)
ALIGNMENT_ALPHA = 2
UNIFORMITY_T = 2
LAMBDA_BT = 1 / 128
CORNER = 64
"""Dimensions whose correlations are kept, for a picture; no dimension is unlike another."""
FOREIGN_BATCH_SIZE = 256
"""For imported weights, which come without a batch size."""


@torch.inference_mode()
def signals(milestone: Milestone, batch_size: int) -> list[dict[str, Any]]:
    """All signals of a milestone; labels are not looked at.

    Spectra and the standard deviation are of images under the evaluation transform, the other
    signals of two views drawn from the run's recipe. All of them see the same images of a split,
    drawn by the run's seed, so they are the same at every milestone.

    Args:
        milestone: of its splits, "train" are images of the pre-training, and "validation" or,
            where there is none, "test" stand in as held-out images. Its network is set to
            evaluation mode.
        batch_size: images over which one correlation matrix is computed, at most.

    Returns:
        One record for each split and space: `split`, `space` ("backbone", and "projector" unless
        that is the identity), `count` (images), `settings` and `values` by name of the signal.
        A value is a finite number; only alpha-ReQ's may be None. The last record, of held-out
        images in what the objective sees, also has `correlation`, see `correlation_corner`.

    Raises:
        ProbeError: fewer than two images in a split, or embeddings that are not finite.
    """
    network, run, splits = milestone.network, milestone.subject, milestone.splits
    held_out = "validation" if "validation" in splits else "test"
    available = min(MOST_IMAGES, *(len(splits[split].images) for split in ("train", held_out)))
    if available < 2:
        raise ProbeError(
            f"signals need two images, here are {len(splits['train'].images)} of train and "
            f"{len(splits[held_out].images)} of {held_out}: raise data.fraction or add images"
        )
    batch_size = min(batch_size, available)
    count = available - available % batch_size
    network.eval()
    records = []
    for split in ("train", held_out):
        images = splits[split].images
        # In random order: a batch of one class would correlate in other ways.
        order = torch.randperm(len(images), generator=generator(run.seed, "signals", split))
        chosen = order[:count]
        features = milestone.features[split]
        whole = features[chosen.to(features.device)].to(milestone.device)
        pairs = _views(run, split, images, chosen, milestone.device)
        for space, embedded in _embeddings(network, whole, pairs).items():
            records.append(
                {
                    "split": split,
                    "space": space,
                    "count": count,
                    "settings": settings(embedded[0].shape[1], batch_size),
                    "values": values(*embedded, batch_size),
                }
            )
    records[-1]["correlation"] = correlation_corner(*embedded[1:])
    return records


def settings(dimensions: int, batch_size: int) -> dict[str, Any]:
    """Everything that a reader must know to compare a signal's value with another."""
    return {
        "dimensions": dimensions,
        "batch_size": batch_size,
        "batch_norm": "running statistics",
        "spectrum_images": "evaluation transform",
        "view_images": "recipe's view_a and view_b",
        "zero_below": NOISE,
        "rankme_eps": RANKME_EPS,
        "alpha_ranks": list(ALPHA_RANKS),
        "alignment_alpha": ALIGNMENT_ALPHA,
        "uniformity_t": UNIFORMITY_T,
        "correlation": "Pearson, embeddings not L2-normalised",
        "lambda_bt": LAMBDA_BT,
    }


def values(z: Tensor, z_a: Tensor, z_b: Tensor, batch_size: int) -> dict[str, float | None]:
    """All signals by name, of embeddings of whole images and of their two views, (n, f) each.

    The Barlow Twins terms are means over batches of `batch_size`, which must divide n.
    """
    batches = zip(z_a.split(batch_size), z_b.split(batch_size), strict=True)
    terms = [barlow_twins_terms(*batch) for batch in batches]
    eigenvalues = spectrum(z, centred=True)
    return {
        "rankme": rankme(z),
        "alpha_req": _alpha(eigenvalues),
        "effective_rank": _effective_rank(eigenvalues),
        "feature_std": feature_std(z),
        "alignment": alignment(z_a, z_b),
        "uniformity": (uniformity(z_a) + uniformity(z_b)) / 2,
        **{name: sum(batch[name] for batch in terms) / len(terms) for name in terms[0]},
    }


def rankme(z: Tensor) -> float:
    """RankMe: exp(-sum_k p_k log p_k), p_k = sigma_k / sum_j sigma_j + 1e-7.

    sigma are the min(n, f) singular values of the embeddings as they are, not centred (Garrido et
    al., ICML 2023, arXiv:2210.02885, eq. 1 and 2).

    From 1 (all embeddings on one line) to min(n, f) (all directions used alike). A low or falling
    value is dimensional collapse; higher is better among runs of one method. Embeddings that are
    all zero have 1.
    """
    singular = spectrum(z, centred=False).sqrt()
    total = singular.sum()
    if total == 0:
        return 1.0
    return math.exp(_entropy(singular / total + RANKME_EPS))


def effective_rank(z: Tensor) -> float:
    """Effective rank of the covariance: exp(-sum_k p_k log p_k), p_k = lambda_k / sum_j lambda_j.

    lambda are the covariance's eigenvalues, which are its singular values (Roy and Vetterli,
    EUSIPCO 2007, definition 1). RankMe is the same function of another matrix: of the embeddings
    themselves, so of square roots of eigenvalues, without centring, and with its epsilon. The
    effective rank therefore asks where the variance lies: weak directions and the mean count less.

    From 1 (variance along one direction) to min(n - 1, f) (isotropic). Low or falling: collapse.
    Constant embeddings, which have no variance, have 1.
    """
    return _effective_rank(spectrum(z, centred=True))


def _effective_rank(eigenvalues: Tensor) -> float:
    total = eigenvalues.sum()
    return 1.0 if total == 0 else math.exp(_entropy(eigenvalues / total))


def alpha_req(z: Tensor) -> float | None:
    """alpha-ReQ: the exponent of the power law lambda_k ~ k^-alpha of the covariance's eigenvalues.

    The slope of log lambda_k against log k, k from 1 in falling order of lambda (Agrawal et al.,
    NeurIPS 2022). The paper leaves the fit open. Here it is the one of the authors' code: ranks 4
    to 100, as far as lambda_k > 0, least squares with weights 1 / k (Stringer et al., Nature 2019).

    At least 0 (isotropic). Around 1 is reported as good; well above it few directions hold
    everything, well below it the noise is as strong as the signal. None if fewer than two
    eigenvalues are left to fit, as in a collapse to four directions or fewer.
    """
    return _alpha(spectrum(z, centred=True))


def _alpha(eigenvalues: Tensor) -> float | None:
    first, last = ALPHA_RANKS
    eigenvalues = eigenvalues[first - 1 : last]
    eigenvalues = eigenvalues[eigenvalues > 0]
    if len(eigenvalues) < 2:
        return None
    rank = torch.arange(first, first + len(eigenvalues)).to(eigenvalues)
    weight = (1 / rank) / (1 / rank).sum()
    log_rank = rank.log() - (weight * rank.log()).sum()
    slope = (weight * log_rank * eigenvalues.log()).sum() / (weight * log_rank.square()).sum()
    return -slope.item()


def feature_std(z: Tensor) -> float:
    """Mean over dimensions of the standard deviation (divisor n) of L2-normalised embeddings.

    SimSiam's sign of collapse (Chen and He, CVPR 2021, arXiv:2011.10566, section 4.1). From 0 (all
    embeddings point one way: collapsed) to 1 / sqrt(f) (centred and isotropic).
    """
    return normalize(_checked(z), dim=1).std(0, correction=0).mean().item()


def alignment(z_a: Tensor, z_b: Tensor) -> float:
    """E |a - b|^2 over pairs of views, L2-normalised (Wang and Isola, ICML 2020, arXiv:2005.10242).

    Their alpha is 2. From 0 (both views of an image meet: invariant, or collapsed) to 4
    (opposite); 2 for unrelated views. To be read together with the uniformity.
    """
    a, b = (normalize(_checked(z), dim=1) for z in (z_a, z_b))
    return (a - b).square().sum(1).pow(ALIGNMENT_ALPHA / 2).mean().item()


def uniformity(z: Tensor) -> float:
    """log E exp(-2 |x - y|^2) over pairs of different images, L2-normalised (Wang and Isola, 2020).

    Their t is 2. From 0 (all embeddings meet: collapsed) down to about -4 (spread evenly on the
    sphere in many dimensions, where |x - y|^2 is about 2); lower is better. Only very few points
    get below: two opposite ones have -8.
    """
    x = normalize(_checked(z), dim=1)
    n = len(x)
    squares = x.square().sum(1)
    total = x.new_zeros(())
    for start in range(0, n, BATCH):
        # Each batch with itself and, as distances are symmetric, with those after it only.
        rows, others = x[start : start + BATCH], x[start:]
        distances = squares[start : start + BATCH, None] + squares[start:] - 2 * rows @ others.T
        potentials = distances.clamp_min_(0).mul_(-UNIFORMITY_T).exp_()
        total += 2 * potentials.sum() - potentials[:, : len(rows)].sum()
    # Each row has met itself once, at distance 0.
    return math.log((total.item() - n) / (n * (n - 1)))


def barlow_twins_terms(z_a: Tensor, z_b: Tensor) -> dict[str, float]:
    """The Barlow Twins loss of one batch and its terms, in one form for all methods.

    C is the matrix of Pearson correlations over the batch, as in the paper (Zbontar et al., ICML
    2021, arXiv:2103.03230, eq. 1 and 2), whatever the run's method does: no L2 normalisation
    first, one divisor for products and variances, lambda 1/128. Another lambda can be put
    together from the terms, which are sums as in the paper.

    Returns:
        `invariance`: sum_i (1 - C_ii)^2, from 0 (both views agree) over d (unrelated) to 4 d.
        `redundancy`: sum_{i != j} C_ij^2, from 0 (decorrelated) to d (d - 1). Independent
        dimensions have about d (d - 1) / (N - 1), since N images correlate by chance.
        `bt_loss`: invariance + lambda redundancy; lower is better.
        `dead_dimensions`: those without variance in at least one view. What is dead there
        correlates with nothing, C_ij = 0: each adds 1 to the invariance term, and dead in both
        views nothing to the redundancy term.

    Args:
        z_a, z_b: (N, d).
    """
    (a, dead_a), (b, dead_b) = _standardised(_checked(z_a)), _standardised(_checked(z_b))
    n = len(a)
    diagonal = (a * b).mean(0)
    invariance = (1 - diagonal).square().sum()
    everything = squared_norm_of_product(a, b) / n**2
    redundancy = (everything - diagonal.square().sum()).clamp_min(0)
    return {
        "invariance": invariance.item(),
        "redundancy": redundancy.item(),
        "bt_loss": (invariance + LAMBDA_BT * redundancy).item(),
        "dead_dimensions": float((dead_a | dead_b).sum()),
    }


def correlation_corner(z_a: Tensor, z_b: Tensor) -> dict[str, Any]:
    """Pearson correlations between the first dimensions of two views, over all N images at once.

    Args:
        z_a, z_b: (N, d).

    Returns:
        `dimensions` (k), 64 or, where there are fewer, all, and `values`, C[:k, :k] packed. The
        identity is what Barlow Twins asks for; a dead dimension has the row and column 0.
    """
    (a, _), (b, _) = (_standardised(_checked(z)[:, :CORNER]) for z in (z_a, z_b))
    corner = (a.T @ b / len(a)).cpu().numpy()
    return {"dimensions": len(corner), "values": pack_correlations(corner)}


def spectrum(z: Tensor, *, centred: bool) -> Tensor:
    """Squared singular values of z (n, f), falling, (min(n, f),): n times those of z^T z / n.

    Those of the smaller of the two Gram matrices; zero where the singular value is below `NOISE`
    times the Frobenius norm of z before centring.
    """
    z = _checked(z)
    zero = NOISE**2 * z.square().sum()
    z = z - z.mean(0) if centred else z
    n, f = z.shape
    eigenvalues = torch.linalg.eigvalsh(z.T @ z if f < n else z @ z.T).flip(0)
    return torch.where(eigenvalues > zero, eigenvalues, 0)


def _entropy(p: Tensor) -> float:
    """-sum p log p in nats, with 0 log 0 = 0."""
    return float(torch.special.entr(p).sum())


def _standardised(z: Tensor) -> tuple[Tensor, Tensor]:
    """z (N, d) with mean 0 and variance 1 (divisor N) in each dimension, and which are dead, (d,).

    A dead dimension, constant but for rounding, becomes 0.
    """
    variance, mean = torch.var_mean(z, 0, correction=0)
    dead = variance <= NOISE**2 * z.square().mean(0)
    return torch.where(dead, 0, (z - mean) / variance.sqrt()), dead


def _checked(z: Tensor) -> Tensor:
    """z (n, f) in float64.

    Raises:
        ProbeError: fewer than two rows, or rows with numbers that are not finite.
    """
    if len(z) < 2:
        raise ProbeError(f"signals need at least two embeddings, here is {len(z)}")
    bad = int((~z.isfinite()).any(1).sum())
    if bad:
        raise ProbeError(
            f"{bad} of {len(z)} embeddings are not finite: the weights are damaged or diverged"
        )
    return z.double()


def _embeddings(
    network: Network, whole: Tensor, pairs: Iterable[list[Tensor]]
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """For each space, embeddings (n, f) of the whole images and of their two views.

    Args:
        whole: features (n, f).
        pairs: the views, a batch at a time.
    """
    features = [tuple(_features(network, view) for view in pair) for pair in pairs]
    z_a, z_b = (torch.cat(parts) for parts in zip(*features, strict=True))
    spaces = {"backbone": (whole, z_a, z_b)}
    if not isinstance(network.projector, nn.Identity):
        project = network.projector
        spaces["projector"] = (project(whole), project(z_a), project(z_b))
    return spaces


def _features(network: Network, view: Tensor) -> Tensor:
    """Features (n, f) of the network's input (n, 3, S, S)."""
    return torch.cat([network.backbone(part) for part in view.split(BATCH)])


def _views(
    run: Subject, split: str, images: Images, chosen: Tensor, device: torch.device
) -> Iterator[list[Tensor]]:
    """Two views (n, 3, size, size) of the chosen (n,) of some images, drawn from the run's recipe.

    `VIEWS` images at a time.
    """
    both = run.recipe.view_a, run.recipe.view_b

    def draws(k: int) -> torch.Generator:
        return generator(run.seed, "signals", split, k)

    return drawn(run, images, chosen.split(VIEWS), both, draws, device)
