"""Ranks that share an averaging: the bytes of one process, and one error for all."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from debris import debris
from safetensors.torch import save_file
from torch.distributed import checkpoint

from tracksided.checkpoints import averaging, shares
from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.orders import Report, WriteOrder
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.ranks import Ranks, Stopped, follow
from tracksided.checkpoints.writeback import FileTarget
from tracksided.errors import CheckpointError, CheckpointRefused, OutputError, TracksidedError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning")

StateDict = dict[str, torch.Tensor]
Save = Callable[..., list[StateDict]]
DEADLINE_S = 30.0
OLD = b"the previous average"


class Meeting:
    """Where the threads of a test meet, as ranks meet in a collective."""

    def __init__(self, size: int, on_order: Callable[[bytes], None] | None = None) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=DEADLINE_S)
        self.slots: list[bytes] = [b""] * size
        self.alarms: set[int] = set()
        self.on_order = on_order or (lambda _: None)


class ThreadRank:
    """`Group` of one thread."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank, self.size = meeting, rank, meeting.size

    def broadcast(self, content: bytes | None) -> bytes:
        if content is not None:
            self.meeting.on_order(content)
            self.meeting.slots[0] = content
        self.meeting.barrier.wait()
        received = self.meeting.slots[0]
        self.meeting.barrier.wait()
        return received

    def gather(self, content: bytes) -> tuple[bytes, ...]:
        self.meeting.slots[self.rank] = content
        self.meeting.barrier.wait()
        received = tuple(self.meeting.slots) if self.rank == 0 else ()
        self.meeting.barrier.wait()
        return received

    def raise_alarm(self, number: int) -> None:
        self.meeting.alarms.add(number)

    def is_alarmed(self, number: int) -> bool:
        return number in self.meeting.alarms


def average_with(
    size: int, request: AverageRequest, on_order: Callable[[bytes], None] | None = None
) -> Provenance:
    """Average with this thread as rank 0; the others must end with its exit code."""
    meeting = Meeting(size, on_order)
    codes: list[int] = []
    others = [
        threading.Thread(target=lambda rank=rank: codes.append(follow(ThreadRank(meeting, rank))))
        for rank in range(1, size)
    ]
    for thread in others:
        thread.start()
    ranks = Ranks(ThreadRank(meeting, 0))
    exit_code = 1
    try:
        provenance = run_average(request, None, ranks)
        exit_code = 0
    finally:
        ranks.end(exit_code)
        for thread in others:
            thread.join(DEADLINE_S)
        assert codes == [exit_code] * (size - 1)
    assert provenance is not None
    return provenance


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tiny tensors as huge ones are cut."""
    monkeypatch.setattr(averaging, "BLOCK_BYTES", 64)
    monkeypatch.setattr(shares, "CHUNK_BYTES", 128)


def mixed(seed: int) -> StateDict:
    generator = torch.Generator().manual_seed(seed)
    tied = torch.randn(9, 5, generator=generator)
    return {
        "tied": tied,
        "head": tied,
        "half": torch.randn(77, generator=generator).bfloat16(),
        "transposed": torch.randn(6, 7, generator=generator).t(),
        "ids": torch.arange(50) + seed,
        "mask": torch.arange(30) % 2 == 0,
        "empty": torch.empty(0, 3),
    }


def content(directory: Path) -> dict[str, bytes]:
    """Bytes of an average, without its provenance."""
    paths = [path for path in directory.rglob("*") if path.suffix != ".json" and path.is_file()]
    return {path.name: path.read_bytes() for path in paths if "averaged" in str(path)}


@pytest.mark.parametrize("size", [2, 3, 7])
def test_ranks_write_the_bytes_of_one_process(tmp_path: Path, save_steps: Save, size: int) -> None:
    states = save_steps(1, 2, 3, make=mixed)
    alone = run_average(AverageRequest(directory=tmp_path))
    expected = (tmp_path / "averaged_model.pt").read_bytes()
    (tmp_path / "averaged_model.pt").unlink()

    provenance = average_with(size, AverageRequest(directory=tmp_path))

    assert (tmp_path / "averaged_model.pt").read_bytes() == expected
    assert alone is not None
    assert provenance.output_digest == alone.output_digest
    assert provenance.sources == alone.sources
    assert (alone.ranks, provenance.ranks) == (1, size)
    assert json.loads((tmp_path / "averaged_model.json").read_bytes())["ranks"] == size
    loaded = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    mean = np.mean([state["tied"].double().numpy() for state in states], axis=0)
    assert torch.equal(loaded["tied"], torch.from_numpy(mean).float())
    assert debris(tmp_path) == []


@pytest.mark.parametrize("kind", ["dcp", "huggingface"])
def test_ranks_write_directories_as_one_process(tmp_path: Path, kind: str) -> None:
    for step in (1, 2, 3):
        state = {name: tensor.contiguous().clone() for name, tensor in mixed(step).items()}
        directory = tmp_path / f"step_{step}"
        if kind == "dcp":
            checkpoint.save({"model": state}, checkpoint_id=directory, no_dist=True)
        else:
            directory.mkdir()
            save_file(state, directory / "model.safetensors")
    request = AverageRequest(directory=tmp_path, patterns=("*/",), method="ema")
    run_average(request)
    expected = content(tmp_path)

    average_with(3, request)

    assert content(tmp_path) == expected
    assert len(expected) == (2 if kind == "dcp" else 1)
    assert debris(tmp_path) == []


def test_every_byte_is_written_by_one_rank(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3, make=mixed)
    written: list[tuple[str, int, int]] = []
    write = FileTarget.write

    def note(self: FileTarget, block: bytes | memoryview, offset: int) -> None:
        written.append((threading.current_thread().name, offset, len(block)))
        write(self, block, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileTarget, "write", note)
        average_with(2, AverageRequest(directory=tmp_path))

    runs = sorted((at, at + nbytes) for name, at, nbytes in written if name.startswith("average"))
    assert sum(stop - start for start, stop in runs) == 9 * 5 * 4 + 77 * 2 + 6 * 7 * 4 + 430
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(runs))


def test_a_source_that_is_gone_at_another_rank_is_replaced_everywhere(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, 3, 4)

    def rotate(order: bytes) -> None:
        if b'"write"' in order:
            (tmp_path / "step_3.pt").unlink(missing_ok=True)  # rank 0 holds it open

    provenance = average_with(2, AverageRequest(directory=tmp_path, count=2), rotate)

    assert [source.name for source in provenance.sources] == ["step_2.pt", "step_4.pt"]
    assert [entry.name for entry in provenance.skipped] == ["step_3.pt"]
    assert "No such file" in provenance.skipped[0].reason


@pytest.fixture
def previous(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "averaged_model.pt").write_bytes(OLD)
    yield
    assert (tmp_path / "averaged_model.pt").read_bytes() == OLD
    assert debris(tmp_path) == []


@pytest.mark.usefixtures("previous")
@pytest.mark.parametrize("name", ["tied", "transposed"])
def test_nan_in_any_rank_s_share_is_an_error_of_all(
    tmp_path: Path, save_steps: Save, name: str
) -> None:
    def poisoned(step: int) -> StateDict:
        state = mixed(step)
        if step == 1:
            state[name].fill_(float("nan"))
        return state

    save_steps(1, 2, make=poisoned)

    with pytest.raises(TooFewCheckpoints, match=rf"step_1\.pt: NaN or infinity in tensor '{name}'"):
        average_with(2, AverageRequest(directory=tmp_path))


@pytest.mark.usefixtures("previous")
def test_a_disk_error_at_one_rank_is_an_error_of_all(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(1, 2, make=mixed)
    syncs: list[FileTarget] = []

    def fail_second(self: FileTarget) -> None:
        syncs.append(self)
        if len({target.descriptor for target in syncs}) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileTarget, "sync", fail_second)

    with pytest.raises(OutputError, match="No space left on device; the previous"):
        average_with(2, AverageRequest(directory=tmp_path))


@pytest.mark.usefixtures("previous")
def test_a_rank_that_does_not_see_the_output_says_that_it_must_be_shared(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(1, 2)
    elsewhere = str(tmp_path / "elsewhere" / "averaged_model.pt")
    original = WriteOrder.to_json
    changed = {"paths": [elsewhere]}
    monkeypatch.setattr(WriteOrder, "to_json", lambda self: {**original(self), **changed})

    with pytest.raises(OutputError, match=r"rank 1: .*must be shared by all ranks"):
        average_with(2, AverageRequest(directory=tmp_path))


@pytest.mark.usefixtures("previous")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "another"}, "rank 1: plans another averaging than rank 0"),
        ({"weights": [0.25, 0.75]}, "rank 1: plans another averaging than rank 0"),
    ],
)
def test_a_rank_with_another_plan_is_refused(
    tmp_path: Path,
    save_steps: Save,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    save_steps(1, 2)
    original = WriteOrder.to_json
    monkeypatch.setattr(WriteOrder, "to_json", lambda self: {**original(self), **change})

    with pytest.raises(CheckpointError, match=message):
        average_with(2, AverageRequest(directory=tmp_path))


@pytest.mark.usefixtures("previous")
def test_bytes_that_read_back_differently_at_another_rank_are_not_published(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, make=mixed)

    def damage(order: bytes) -> None:
        if b'"read back"' in order:
            (hidden,) = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
            found = hidden.read_bytes().find(mean)
            with hidden.open("r+b") as file:
                file.seek(found)
                file.write(b"\xff")

    states = [mixed(step)["transposed"].double() for step in (1, 2)]
    mean = ((states[0] + states[1]) / 2).float().t().numpy().tobytes()

    with pytest.raises(OutputError, match="reads back differently"):
        average_with(2, AverageRequest(directory=tmp_path), damage)


@pytest.mark.usefixtures("previous")
@pytest.mark.parametrize("order", ["write", "read back"])
def test_a_rank_that_a_signal_ends_alone_ends_all_and_no_source_is_to_blame(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    save_steps(1, 2, 3, make=mixed)
    orders: list[str] = []

    def is_alarmed(self: ThreadRank, number: int) -> bool:
        del number
        return self.rank == 1 and orders[-1] == order

    # Its alarm comes too late for the others, which have done their shares by then.
    monkeypatch.setattr(ThreadRank, "is_alarmed", is_alarmed)

    with pytest.raises(Stopped, match="rank 1 was asked to end; the previous average stays"):
        average_with(
            3,
            AverageRequest(directory=tmp_path),
            lambda content: orders.append(json.loads(content)["order"]),
        )


def test_a_rank_that_only_stopped_leaves_the_word_to_the_one_that_failed() -> None:
    stopped = Report.of(Stopped("ended before it was done"), "out")

    stopped.raise_failure(1, {})

    assert stopped.is_failed


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CheckpointError("no"), CheckpointError),
        (CheckpointRefused("a kind of it"), CheckpointError),
        (OutputError("no"), OutputError),
        (OSError(28, "full"), OutputError),
    ],
)
def test_a_reported_error_is_raised_as_what_it_was(
    error: TracksidedError | OSError, expected: type[TracksidedError]
) -> None:
    sent = json.loads(json.dumps(Report.of(error, "averaged_model.pt").to_json()))

    with pytest.raises(TracksidedError, match="rank 2: ") as raised:
        Report.from_json(sent).raise_failure(2, {})

    assert type(raised.value) is expected
