"""Two ranks under DDP: one run, attention from rank 0, the norm of each rank's own gradient."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def _run(out: Path, order: str) -> None:
    trainer = Path(__file__).with_name("ranks_trainer.py")
    subprocess.run([sys.executable, str(trainer), str(out), order], check=True)


@pytest.mark.parametrize("order", ["attach, then wrap", "wrap, then attach"])
def test_two_ranks_are_one_run(
    tmp_path: Path, receive_all: Callable[[], dict[int, Any]], order: str
) -> None:
    out = tmp_path / "out"

    _run(out, order)

    ranks = receive_all()
    assert sorted(ranks) == [0, 1]
    assert ranks[0].hello.run == ranks[1].hello.run
    assert {received.hello.world_size for received in ranks.values()} == {2}
    for rank, received in ranks.items():
        norms = [float(text) for text in Path(f"{out}.{rank}").read_text().split()]
        assert [sample.step.step for sample in received.samples] == [2, 4]
        for sample in received.samples:
            own = norms[sample.step.step - 1]
            assert sample.step.local_gradient_norm == pytest.approx(own, rel=1e-4)
            assert sample.gradients.names[-1] == "head.bias"
            assert len(sample.attention) == (1 if rank == 0 else 0)
    both = zip(ranks[0].samples, ranks[1].samples, strict=True)
    for first, second in both:
        assert first.step.norm_after_clip == second.step.norm_after_clip
        assert first.step.norm_after_clip < max(
            first.step.local_gradient_norm, second.step.local_gradient_norm
        )


def test_ranks_agree_on_the_run_before_they_know_each_other(
    tmp_path: Path, receive_all: Callable[[], dict[int, Any]]
) -> None:
    _run(tmp_path / "out", "before init_process_group")

    ranks = receive_all()
    assert ranks[0].hello.run == ranks[1].hello.run
    assert [ranks[rank].hello.local_rank for rank in (0, 1)] == [0, 1]
