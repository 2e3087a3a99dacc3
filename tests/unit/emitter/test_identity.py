"""Who a process is, from what its launcher says."""

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from trackside.identity import (
    Place,
    ProcessBirth,
    derive_run_id,
    find_place,
    identify,
    process_birth,
)
from trackside.wire.segment import SegmentName

ALONE = Place(rank=0, local_rank=0, world_size=1, local_world_size=1, node_rank=0, attempt=0)
BIRTH = ProcessBirth(pid=77, started_at=1_700_000_000.25)


def _derive(environ: dict[str, str], place: Place = ALONE, script: str = "/x/train.py") -> str:
    return derive_run_id(environ, place, script=script, birth=BIRTH)


def test_a_process_alone_is_rank_0_of_1() -> None:
    assert find_place({}) == ALONE


def test_torchrun_is_understood() -> None:
    environ = {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1",
        "TORCHELASTIC_RESTART_COUNT": "2",
    }

    assert find_place(environ) == Place(
        rank=5, local_rank=1, world_size=8, local_world_size=4, node_rank=1, attempt=2
    )


def test_slurm_is_understood() -> None:
    environ = {
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "12",
        "SLURM_NODEID": "2",
        "SLURM_TASKS_PER_NODE": "4(x2),3,1",
        "SLURM_RESTART_COUNT": "1",
    }

    assert find_place(environ) == Place(
        rank=9, local_rank=1, world_size=12, local_world_size=3, node_rank=2, attempt=1
    )


SECOND_NODE = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_NODEID": "1",
    "SLURM_TASKS_PER_NODE": "2(x2)",
}


def test_slurms_numbers_copied_for_init_process_group_do_not_hide_the_node() -> None:
    copied = SECOND_NODE | {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}

    assert find_place(copied) == Place(
        rank=3, local_rank=1, world_size=4, local_world_size=2, node_rank=1, attempt=0
    )


@pytest.mark.parametrize(
    ("launched", "expected"),
    [
        # One task a node that starts torchrun: these are its numbers, even if some are equal.
        (
            {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "2"},
            Place(rank=3, local_rank=0, world_size=4, local_world_size=2, node_rank=2, attempt=0),
        ),
        # Ranks that one task spawned by itself, with numbers of its own.
        (
            {"RANK": "5", "WORLD_SIZE": "8"},
            Place(rank=5, local_rank=5, world_size=8, local_world_size=8, node_rank=0, attempt=0),
        ),
    ],
)
def test_ranks_that_a_task_of_slurm_starts_are_not_slurms(
    launched: dict[str, str], expected: Place
) -> None:
    assert find_place(SECOND_NODE | {"RANK": "3", "WORLD_SIZE": "4"} | launched) == expected


def test_a_malformed_environment_counts_as_absent() -> None:
    assert find_place({"RANK": "x", "WORLD_SIZE": "", "LOCAL_RANK": "-1"}) == ALONE


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TORCHELASTIC_RUN_ID": "my job/7"}, "my_job_7"),
        ({"TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "31"}, "slurm-31"),
        ({"SLURM_JOB_ID": "31", "SLURM_STEP_ID": "2"}, "slurm-31.2"),
    ],
)
def test_a_launchers_name_comes_first(environ: dict[str, str], expected: str) -> None:
    assert _derive(environ) == expected


def test_an_id_that_torchrun_made_up_counts_only_between_nodes() -> None:
    made_up = {"TORCHELASTIC_RUN_ID": "3b6f3d0e-61c1-4a0e-9d1a-0f6b8a1f2c3d"}
    two_nodes = replace(ALONE, world_size=4, local_world_size=2)

    assert _derive(made_up).startswith("train-")
    assert _derive(made_up, two_nodes) == made_up["TORCHELASTIC_RUN_ID"]


def test_a_derived_run_id_tells_script_and_time() -> None:
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(1_700_000_000))

    found = _derive({}, script="/home/me/my train.py")

    assert re.fullmatch(rf"my_train-{moment}-[0-9a-f]{{4}}", found)


@pytest.mark.parametrize("script", ["", "-", "-c", "-m"])
def test_a_script_without_a_name_makes_a_plain_run_id(script: str) -> None:
    assert re.fullmatch(r"run-\d{8}-\d{6}-[0-9a-f]{4}", _derive({}, script=script))


def test_a_derived_run_id_fits_a_segment_name() -> None:
    found = _derive({}, script="/x/" + "\xe4" * 300 + "y" * 300 + ".py")

    SegmentName(found, 0, 1, "a")


def test_nodes_without_a_name_share_the_address_of_the_first() -> None:
    ranks = [
        Place(
            rank=rank, local_rank=rank % 2, world_size=4, local_world_size=2,
            node_rank=rank // 2, attempt=0,
        )
        for rank in range(4)
    ]  # fmt: skip
    environ = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}

    found = {
        derive_run_id(environ, place, script="t.py", birth=ProcessBirth(place.rank, 0.0))
        for place in ranks
    }

    assert len(found) == 1
    assert _derive({**environ, "MASTER_PORT": "29501"}, ranks[0]) not in found


def test_a_run_that_was_named_keeps_its_name() -> None:
    assert identify({}, run="mine").run == "mine"
    assert identify({}).pid == os.getpid()


@pytest.mark.parametrize(("local_rank", "ask"), [("0", os.getpid), ("1", os.getppid)])
def test_where_rank_0_started_the_others_its_birth_names_the_run(
    local_rank: str, ask: Callable[[], int]
) -> None:
    environ = {"LOCAL_RANK": local_rank, "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}
    place = replace(ALONE, world_size=2, local_world_size=2)

    found = identify(environ)

    birth = process_birth(ask())
    assert found.run == derive_run_id(environ, place, script=sys.argv[0], birth=birth)


def test_the_birth_of_a_process_is_the_same_for_everybody() -> None:
    own = process_birth(os.getpid())

    assert process_birth(os.getpid()) == own
    assert 0 <= time.time() - own.started_at < 24 * 3600
    assert process_birth(os.getppid()).started_at <= own.started_at


def test_a_process_that_is_gone_was_born_now() -> None:
    before = time.time()

    assert process_birth(2**22 + 1).started_at >= before
