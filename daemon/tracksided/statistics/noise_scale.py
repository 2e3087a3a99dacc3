"""The gradient noise scale: the batch size beyond which larger batches stop paying."""

from collections.abc import Sequence


def gradient_noise_scale(
    local_norms: Sequence[float], global_norm: float, *, num_ranks: int
) -> float | None:
    """Estimate tr(Sigma) / |G|^2 from the gradients of the ranks and of their mean.

    In batches of one rank, b = 1 and B = ``num_ranks``:
    |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b) and tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B),
    where |G_b|^2 is the mean over the ranks seen. One step's estimate is noisy: average
    over steps before acting on it.

    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.

    Args:
        local_norms: gradient norms of single ranks before they were averaged, at least two.
        global_norm: norm of the gradient averaged over all ranks, before clipping.
        num_ranks: all ranks of the run, not only those seen.

    Returns:
        Batches of one rank, or None where the estimate of |G|^2 or of the variance is not positive.
    """
    local_square = sum(norm * norm for norm in local_norms) / len(local_norms)
    global_square = global_norm * global_norm
    signal = (num_ranks * global_square - local_square) / (num_ranks - 1)
    noise = (local_square - global_square) / (1 - 1 / num_ranks)
    return noise / signal if signal > 0 and noise > 0 else None
