"""The attention tap: sees every attention call of one armed training forward."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from trackside.capture.captured import CapturedAttention
from trackside.capture.frozen import frozen_parts
from trackside.capture.held import UnheldModule
from trackside.capture.mode import CallMode
from trackside.capture.module_hooks import Removable, hook_forward, takes_hooks, unhook
from trackside.capture.modules import num_calls
from trackside.capture.recording import Group, Heads, Recording, TapSettings
from trackside.capture.sources.catalog import source_of

NOT_CALLED = (
    "the model was not called with gradients in a sampled step, so no attention is captured: only "
    "model(...) is watched, neither model.forward(...) nor calls of its parts. Around those, put "
    "`with session.forward():`, where session is what attach() returned"
)
SCRIPTED = "the model is TorchScript, which takes no hooks: no attention is captured"
_FROZEN = (
    "is frozen and in eval mode, and capturing would switch off the fast path of "
    "torch.nn.MultiheadAttention there"
)


class AttentionTap:
    """Captures queries and keys, or logits, of one sample in one forward of a model.

    ========= ================================================================================
    state     leaves it by
    ========= ================================================================================
    idle      `arm`
    armed     a forward of the root that runs with gradients -> recording; `disarm` -> idle
    recording the end of that forward -> idle, with something to `take`; where it raises -> armed
    ========= ================================================================================

    While recording, and only then, a `TorchFunctionMode` is on torch's stack. The model's calls
    run once, as they are; what goes wrong in the tap goes to ``on_error``. Use it from the thread
    that trains.

    Under gradients only, and not in `frozen_parts`: there the mode would change results. The one
    exception is `capture_once`.
    """

    _root = UnheldModule()

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: tuple[int, ...] | None,
        heads: Heads,
        sample: int,
        max_queries: int,
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        """Prepare; nothing touches the model before `install`.

        Args:
            model: the root whose forward is watched; of a compiled one, what was compiled.
            layers: per stack and type, negative from the end; None is all.
            heads: which ones; "average" captures all.
            sample: index in the batch.
            max_queries: query rows kept per call, evenly spaced, at least 1.
            on_error: gets a place and an exception of ours; must not raise.
        """
        self._root = model
        self._settings = TapSettings(
            layers=layers, heads=heads, sample=sample, max_queries=max_queries
        )
        self._on_error = on_error
        self._handles: list[Removable] = []
        self._notes: dict[str, None] = {}  # in order of occurrence
        self._layer_counts: dict[Group, int] = {}
        self._captured: tuple[CapturedAttention, ...] = ()
        self._is_armed = False
        self._is_forced = False  # the next forward is captured without gradients too
        self._is_in_block = False
        self._is_observing = False
        self._is_removed_late = False
        self._recording: Recording | None = None
        self._mode: CallMode | None = None
        self._depth = 0  # calls of the root inside of one another
        self._part_handles: list[Removable] = []
        self._part_depth = 0  # calls of frozen parts inside of one another
        self._exception_before: BaseException | None = None

    @property
    def has_captured(self) -> bool:
        """Whether there is something to `take`."""
        return bool(self._captured)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why something could not be captured, each reason once."""
        return tuple(self._notes)

    def install(self) -> None:
        """Hook the root module, or note that it takes no hooks; twice is fine."""
        if not takes_hooks(self._root):
            self._note(SCRIPTED)
            return
        if self._handles:
            return
        self._is_removed_late = False
        self._handles = hook_forward(self._root, self._before_forward, self._after_forward)

    def remove(self) -> None:
        """Take everything off the model and off torch; twice is fine.

        In the middle of one of the tap's own calls torch has put the mode aside; then the rest is
        done when the forward ends.
        """
        self._is_removed_late = self._is_observing
        self.disarm()
        if not self._is_observing:
            self._unhook()

    def arm(self) -> None:
        """Capture the next forward of the root that runs with gradients."""
        self.disarm()
        self._is_armed = bool(self._handles)

    @contextlib.contextmanager
    def capture_once(self) -> Iterator[None]:
        """Capture a forward of the root inside of the block, with gradients or without.

        Only for a forward whose results nobody uses: a fast path is off in it. What is armed
        stays armed for the forward after the block.
        """
        was_armed = self._is_armed
        self._is_armed = self._is_forced = bool(self._handles)
        try:
            yield
        finally:
            self._is_armed, self._is_forced = was_armed, False

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Take the block for a forward of the root, up to its first backward.

        For a model that is not called itself, but its parts by some other method.
        """
        self._before_forward(self._root)
        self._is_in_block = True
        try:
            yield
        finally:
            self._is_in_block = False
            self._after_forward(self._root)

    def end_block(self) -> None:
        """Note a backward: in a `forward` block nothing more is recorded.

        The mode stays until the block ends: torch has put it aside while ``backward`` runs.
        """
        if self._is_in_block and self._depth == 1:
            recording, self._recording = self._recording, None
            with self._guard("first backward of a block"):
                self._keep(recording)

    def disarm(self) -> None:
        """Capture nothing; drop what was captured.

        Like `take` and the next forward, this also ends a recording whose forward was left by
        KeyboardInterrupt: for that torch calls no hooks.
        """
        self._is_armed = False
        self._captured = ()
        self._recording = None
        if not self._is_observing:
            self._end()

    def take(self) -> tuple[CapturedAttention, ...]:
        """Return what was captured since `arm`, in order of execution, and forget it."""
        captured, self._captured = self._captured, ()
        is_interrupted = self._mode is not None and not self._is_in_block
        if is_interrupted and not self._is_observing:
            self._drop_interrupted()
        return captured

    def note_if_not_called(self) -> None:
        """Note it if the forward that `arm` waits for has not come."""
        if self._is_armed:
            self._note(NOT_CALLED)

    def _before_forward(self, module: nn.Module) -> None:
        # Compiled code must not depend on the tap: a compiled model is run eagerly to be captured.
        if torch.compiler.is_compiling() or not (self._is_armed or self._depth):
            return
        if torch._C._is_tracing():  # noqa: SLF001 - torch.jit.is_tracing is not typed
            return  # what torch.jit.trace runs is no training, and its sizes are tensors
        if module is not self._root:  # a replica of nn.DataParallel, in a thread of its own
            return
        if self._depth and not self._is_in_block and num_calls(self._root) == 1:
            self._drop_interrupted()
        if self._depth:
            self._depth += 1
        elif self._is_armed and (self._is_forced or torch.is_grad_enabled()):
            self._is_armed = False
            with self._guard("start of the forward"):
                self._begin()

    def _begin(self) -> None:
        parts = () if self._is_forced else tuple(frozen_parts(self._root))
        for part in parts:
            if part.module is self._root or not part.can_be_hooked:
                self._note(f"{part.path or 'the model'} {_FROZEN}; nothing is captured")
                return
            self._note(f"{part.path} {_FROZEN}; it is left out")
        recording = Recording(
            self._root,
            self._settings,
            self._layer_counts,
            self._note,
            without_gradients=self._is_forced,
        )
        mode = CallMode(self._observe)
        for part in parts:
            self._part_handles += hook_forward(part.module, self._before_part, self._after_part)
        self._exception_before = sys.exception()
        self._recording, self._mode, self._depth = recording, mode, 1
        mode.put_on()

    def _after_forward(self, module: nn.Module) -> None:
        if torch.compiler.is_compiling() or not self._depth:
            return
        if module is not self._root:
            return
        self._depth -= 1
        if self._depth:
            return
        has_raised = sys.exception() is not self._exception_before
        recording, self._recording = self._recording, None
        with self._guard("end of the forward"):
            self._end()
            if has_raised:  # out of memory, say; the user may go on with the next batch
                self._is_armed = bool(self._handles)
            else:
                self._keep(recording)

    def _keep(self, recording: Recording | None) -> None:
        if recording is not None:
            self._captured = recording.finish()
            self._layer_counts = dict(recording.counts)

    def _drop_interrupted(self) -> None:
        self._recording = None
        self._end()

    def _before_part(self, _: nn.Module) -> None:
        self._part_depth += 1
        if self._part_depth == 1 and self._mode is not None:
            self._mode.take_off()

    def _after_part(self, _: nn.Module) -> None:
        if self._part_depth == 0:  # a hook in front of ours has raised
            return
        self._part_depth -= 1
        if self._part_depth == 0 and self._mode is not None:
            self._mode.put_on()

    def _end(self) -> None:
        """Take the mode off torch's stack, wherever the recording has got to."""
        if self._mode is not None:
            self._mode.take_off()
        unhook(self._part_handles)
        self._mode = self._exception_before = None
        self._depth = self._part_depth = 0
        if self._is_removed_late:
            self._unhook()

    def _observe(self, func: object, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        source = source_of(func)
        if source is None or self._recording is None:
            return
        self._is_observing = True
        try:
            if self._is_in_block or num_calls(self._root):
                self._recording.observe(source, args, kwargs)
            else:  # the forward was interrupted: what comes now is not the model's
                self._recording = None
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the training
            self._on_error("attention tap, attention", error)
        finally:
            self._is_observing = False

    @contextlib.contextmanager
    def _guard(self, where: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the training
            self._on_error(f"attention tap, {where}", error)

    def _note(self, reason: str) -> None:
        self._notes[reason] = None

    def _unhook(self) -> None:
        unhook(self._handles)
