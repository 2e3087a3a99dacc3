"""What the pages about SLURM are tried on."""

from collections.abc import Iterator

import pytest
import slurm
import slurm_cluster


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[slurm_cluster.Cluster | None]:
    """A SLURM of two nodes; None where there can be none, or a controller answers already."""
    if slurm.is_real() or slurm_cluster.why_not() is not None:
        yield None
        return
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as up:
        yield up
