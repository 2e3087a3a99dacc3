"""Results of benchmarks in one file."""

from pathlib import Path

import pytest
import stored


def test_one_benchmark_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "made" / "results.json"
    stored.store(file, "tap", {"date": "old"})
    stored.store(file, "ring", {"date": "kept"})

    stored.store(file, "tap", {"date": "new"})

    assert stored.load(file) == {"ring": {"date": "kept"}, "tap": {"date": "new"}}
    assert [path.name for path in file.parent.iterdir()] == ["results.json"]


def test_no_file_is_no_results(tmp_path: Path) -> None:
    assert stored.load(tmp_path / "results.json") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is no JSON"), ("[]", "has schema None, 1"), ('{"schema": 2}', "has schema 2, 1")],
)
def test_a_file_of_something_else_is_refused_and_left_alone(
    content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)

    with pytest.raises(ValueError, match=message):
        stored.store(file, "tap", {})
    assert file.read_text() == content
