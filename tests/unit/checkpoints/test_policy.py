from tracksided.checkpoints.naming import name_to_be, temporary_name
from tracksided.checkpoints.policy import StepRange


def test_a_range_keeps_what_lies_inside_and_nothing_without_step() -> None:
    steps = StepRange(first=100, last=300, every=100)

    kept = [step for step in (None, 0, 100, 150, 200, 300, 400) if steps.holds(step)]

    assert kept == [100, 200, 300]
    assert StepRange().holds(None)


def test_temporary_names_are_hidden_known_and_never_twice_the_same() -> None:
    one, other = temporary_name("a.pt"), temporary_name("a.pt")

    assert one != other
    assert one.startswith(".")
    assert name_to_be(one) == "a.pt"
    assert not one.endswith((".pt", ".safetensors"))
