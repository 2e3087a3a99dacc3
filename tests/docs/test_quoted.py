"""What the pages quote of a training is compared for real: what is not there is noticed."""

import json
from pathlib import Path

import pytest
from quoted import is_output, listed, mistakes

OUTPUT = "step 10 loss 2.268\n...\nstep 100 loss 0.013\n"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    run = tmp_path / "logs" / "train-1"
    (run / "step_10").mkdir(parents=True)
    (run / "step_20").mkdir()
    lines = [{"step": 10, "logged": {}}, {"step": 20, "logged": {"accuracy": 0.5}}]
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "run.json").write_text(json.dumps({"state": "finished", "averages": [{"of": "a.pt"}]}))
    return tmp_path


def test_a_tree_is_paths_with_what_they_are() -> None:
    assert listed("a/ ... c/   # `x` in each\nb.json\n") == [
        ("a/", "`x` in each"),
        ("c/", "`x` in each"),
        ("b.json", ""),
    ]


def test_what_is_there_is_no_mistake(written: Path) -> None:
    tree = """\
logs/<run>/step_10/ ... logs/<run>/step_20/  # a directory each
logs/<run>/history.jsonl  # `logged` holds `accuracy`
logs/<run>/run.json  # `state` is `finished`, `of` `a.pt`
"""

    assert mistakes(tree, written) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("logs/<run>/step_30/", "0 in"),
        ("logs/<run>/step_10/ ... logs/<run>/step_30/", "0 in"),
        ("logs/<run>/<step>/", "4 in"),
        ("logs/<run>/step_10", "slash"),
        ("logs/<run>/run.json/", "slash"),
        ("logs/<run>/history.jsonl  # `logged` holds `Custom/accuracy`", "no 'Custom/accuracy'"),
        ("logs/<run>/run.json  # `drops` is empty", "no 'drops'"),
        ("logs/<run>/step_10/  # holds `state`", "cannot be looked up"),
    ],
)
def test_what_is_not_there_is_named(written: Path, line: str, said: str) -> None:
    (mistake,) = mistakes(line, written)

    assert said in mistake


@pytest.mark.parametrize(
    "between", ["", "step 20 loss 2.131\n", "step 20 loss 2.131\nstep 30 loss 0.5\n"]
)
def test_an_output_may_differ_in_its_last_digits(between: str) -> None:
    assert is_output(OUTPUT, f"step 10 loss 2.27\n{between}step 100 loss 0.014\n")


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "step 10 loss 2.268\n",
        "step 10 loss 2.1\nstep 100 loss 0.013\n",
        "step 11 loss 2.268\nstep 100 loss 0.013\n",
        "step 10 loss 2.268\nstep 100 loss 0.013\nand more\n",
        "step 10 loss nan\nstep 100 loss 0.013\n",
    ],
)
def test_another_output_is_noticed(printed: str) -> None:
    assert not is_output(OUTPUT, printed)
