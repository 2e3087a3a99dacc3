"""The loss that the user logs, and the sampled step that waits for it."""

from typing import TYPE_CHECKING

from trackside.draft import StepDraft

if TYPE_CHECKING:
    from trackside.capture.clipping import Number


class LateLoss:
    """Gives a logged loss to the step that it belongs to. The training thread's.

    Whoever logs after the step lets its draft wait: until the loss comes, or the next step begins.
    Then nothing waits any more, because losses come otherwise, or not at all. Before anybody has
    logged, the first draft of several micro-batches waits once: what scripts call backward on is
    then a part of the loss that they log.
    """

    def __init__(self) -> None:
        self.newest: Number | None = None
        """Of all that were logged."""

        self.of_step: Number | None = None
        """Logged in the step in progress."""

        self.waiting: StepDraft | None = None
        """A step that is complete but for its loss."""

        self._may_wait = True
        self._has_waited = False

    def complete(self, draft: StepDraft) -> bool:
        """Give a draft the loss of its step; return False where it waits for one from now on."""
        if self.of_step is not None:
            draft.loss = self.of_step
        elif self._may_wait and (self.newest is not None or self._is_first_share(draft)):
            self.waiting, self._has_waited = draft, True
            return False
        return True

    def arrive(self) -> StepDraft | None:
        """Return the draft that was waiting, with the newest loss."""
        draft, self.waiting = self.waiting, None
        if draft is not None:
            draft.loss = self.newest
        return draft

    def give_up(self) -> StepDraft | None:
        """Return the draft that was waiting, without a logged loss.

        None waits from now on where losses were logged, and not this one.
        """
        draft, self.waiting = self.waiting, None
        if draft is not None and self.newest is not None:
            self._may_wait = False
        return draft

    def never_wait(self) -> None:
        """Let no draft wait."""
        self._may_wait = False

    def _is_first_share(self, draft: StepDraft) -> bool:
        return not self._has_waited and (draft.micro_batches or 0) > 1
