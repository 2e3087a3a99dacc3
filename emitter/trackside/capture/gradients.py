"""Per-parameter gradient data of one sampled step, as the optimizer sees it.

Norms are over all elements; everything finer is estimated by the daemon from a strided sample,
because reading every element again costs more than the step can spare. Nothing here waits for a
device, and nothing is written to a tensor of the model's. Of a sharded model (FSDP2) a rank reads
its own shards: to ask for more would be a collective.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from trackside.capture.elements import num_elements_sampled, sampled_elements
from trackside.capture.held import UnheldModule
from trackside.capture.modules import WRAPPER_NAMES
from trackside.wire.records import REPLICA, Gradients

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Placement

MAX_SAMPLED = 1024  # elements per parameter: the update ratio is then off by 2 % (median)
NUM_COLUMNS = 4  # arrays with sampled elements: the gradient twice, the weights twice
UNCLIPPED = "gradients/unclipped"
_NARROW = frozenset({torch.float16, torch.bfloat16})


@dataclass(frozen=True, slots=True)
class CapturedGradients:
    """Gradient data of one step, still on its device."""

    meta: Gradients
    tensors: dict[str, torch.Tensor]
    """The arrays of `trackside.wire.records.Gradients`, by their names there."""

    total_norm: torch.Tensor | None
    """L2 norm over all parameters of this rank, 0-d; None where a gradient was not read."""

    shrunk: tuple[str, ...]
    """What was made smaller to fit the byte budget, in words."""

    is_sharded: bool
    """Whether other ranks hold other parts of a gradient, so that no rank knows the norm."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter that takes part; weight and gradient are what lies on this rank."""

    name: str
    weight: torch.Tensor
    gradient: torch.Tensor
    total_elements: int
    shard: int


class GradientTap:
    """Reads gradients and weights around the optimizer's step."""

    _model = UnheldModule()

    def __init__(self, model: nn.Module, *, sample_bytes: int) -> None:
        """Prepare; nothing of the model is touched.

        Args:
            model: its parameters give the names.
            sample_bytes: at most this much for the sampled elements of a step.
        """
        self._model = model
        self._sample_bytes = sample_bytes
        self._max_sampled = MAX_SAMPLED
        self._names = _names(model)
        self._notes: dict[str, str] = {}  # by cause
        self._has_compared = False  # the optimizer's parameters with the model's
        self._parameters: tuple[_Parameter, ...] = ()
        self._has_unread = False  # gradients of this step that `_parameters` lack
        self._before: CapturedGradients | None = None
        self._unclipped: torch.Tensor | None = None  # sampled elements at the end of backward
        self._unclipped_of: tuple[int, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Why something was left out, each reason once."""
        return tuple(self._notes.values())

    @torch.no_grad()
    def after_backward(self, parameters: Sequence[torch.Tensor]) -> None:
        """Read gradients as backward left them: before anybody clips them, in whatever way."""
        self._parameters = tuple(self._collect(parameters))
        gradients = [parameter.gradient for parameter in self._parameters]
        self._unclipped_of = tuple(gradient.numel() for gradient in gradients)
        self._unclipped = _sample(gradients, self._fit()) if gradients else None
        self._parameters = ()

    @torch.no_grad()
    def before_step(
        self,
        optimizer: torch.optim.Optimizer,
        scale: torch.Tensor | None,
        loss_scale: torch.Tensor | None = None,
    ) -> None:
        """Read gradients and weights.

        Args:
            optimizer: whose step begins.
            scale: what a fused optimizer will divide its gradients by.
            loss_scale: what the loss was multiplied by, and so the gradients of `after_backward`.
        """
        updated = trainable(optimizer)
        self._parameters = tuple(self._collect(updated))
        self._note_others(updated)
        self._before = None
        if not self._parameters:
            return
        gradients = [parameter.gradient for parameter in self._parameters]
        weights = [parameter.weight for parameter in self._parameters]
        norms = _norms(gradients)
        largest = _largest(gradients)
        most = self._max_sampled = self._fit()
        sample = _sample(gradients, most)
        if scale is not None:
            norms, largest, sample = norms / scale, largest / scale, sample / scale
        unclipped = self._take_unclipped(gradients, loss_scale)
        counts = [num_elements_sampled(gradient, most) for gradient in gradients]
        self._before = CapturedGradients(
            meta=Gradients(
                names=tuple(parameter.name for parameter in self._parameters),
                num_elements=tuple(gradient.numel() for gradient in gradients),
                total_elements=tuple(parameter.total_elements for parameter in self._parameters),
                shards=tuple(parameter.shard for parameter in self._parameters),
            ),
            tensors={
                "gradients/norm": norms,  # [parameters]
                "gradients/abs_max": largest,
                "gradients/weight_norm": _norms(weights),
                "gradients/sample": sample,  # [sampled elements]
                "gradients/sample_count": torch.tensor(counts, device="cpu"),
                "gradients/weight_before": _sample(weights, most),
                **unclipped,
            },
            total_norm=None if self._has_unread else torch.linalg.vector_norm(norms),
            shrunk=()
            if most == MAX_SAMPLED
            else (f"{most} of {MAX_SAMPLED} elements are sampled of each parameter",),
            is_sharded=any(map(is_sharded, updated)),
        )

    @torch.no_grad()
    def after_step(self) -> CapturedGradients | None:
        """Read the same weights again; None where no parameter had a gradient."""
        before, self._before = self._before, None
        weights = [parameter.weight for parameter in self._parameters]
        self._parameters = ()
        if before is not None:
            before.tensors["gradients/weight_after"] = _sample(weights, self._max_sampled)
        return before

    def forget_unclipped(self) -> None:
        """Drop what `after_backward` read."""
        self._unclipped = None

    def _note_others(self, updated: Sequence[torch.Tensor]) -> None:
        """Note it once if other optimizers update the rest of the model."""
        if self._has_compared:
            return
        self._has_compared = True
        own = {id(parameter) for parameter in self._model.parameters() if parameter.requires_grad}
        others = own.difference(map(id, updated))
        if 0 < len(others) < len(own):  # all: it updates copies in another precision
            self._notes["other optimizers"] = (
                f"{len(others)} of the model's {len(own)} parameters that learn are not updated by "
                "the optimizer that is watched: its steps and learning rate are shown, and the "
                "gradients of the others neither by themselves nor in the norm after clipping"
            )

    def _take_unclipped(
        self, gradients: Sequence[torch.Tensor], loss_scale: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Return the elements of `after_backward`; none where the gradients are others now."""
        unclipped, self._unclipped = self._unclipped, None
        if unclipped is None or self._unclipped_of != tuple(map(torch.Tensor.numel, gradients)):
            return {}
        return {UNCLIPPED: unclipped if loss_scale is None else unclipped / loss_scale}

    def _fit(self) -> int:
        """Return how many elements of each parameter fit the budget, at least 1."""
        widest = max(max(p.gradient.itemsize, p.weight.itemsize) for p in self._parameters)
        column_bytes = self._sample_bytes // NUM_COLUMNS
        return min(max(column_bytes // (widest * len(self._parameters)), 1), MAX_SAMPLED)

    def _collect(self, parameters: Sequence[torch.Tensor]) -> list[_Parameter]:
        found: list[_Parameter] = []
        left_out: dict[str, list[str]] = {}
        for position, parameter in enumerate(parameters):
            if parameter.grad is None:
                continue
            name = self._name(parameter, position)
            gradient, weight = local(_as_its_weight(parameter)), local(parameter)
            reason = _reason_to_leave_out(parameter.grad, gradient, weight)
            if reason is not None:
                left_out.setdefault(reason, []).append(name)
            elif gradient.numel():  # a shard may be empty
                shard = _shard(parameter)
                found.append(_Parameter(name, weight, gradient, parameter.numel(), shard))
        self._has_unread = bool(left_out)
        for reason, (first, *others) in left_out.items():
            also = f"; {len(others)} others too" if others else ""
            self._notes.setdefault(reason, f"{first} has {reason}{also}")
        return found

    def _name(self, parameter: torch.Tensor, position: int) -> str:
        if id(parameter) not in self._names:  # wrapped or sharded since we looked
            self._names = _names(self._model)
            self._names.setdefault(id(parameter), f"parameter {position}")
        return self._names[id(parameter)]


def trainable(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the parameters that an optimizer updates, in its order."""
    groups = cast("Sequence[dict[str, object]]", optimizer.param_groups)
    return [
        parameter
        for group in groups
        for parameter in cast("Sequence[torch.Tensor]", group["params"])
        if parameter.requires_grad
    ]


def total_norm(norms: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the L2 norm of parts whose norms are given, on an accelerator if one of them is."""
    norm: torch.Tensor = torch.linalg.vector_norm(_stack(norms))
    return norm


def is_readable(gradient: torch.Tensor) -> bool:
    """Whether a gradient is plain numbers: to put a sparse one together waits for the device."""
    return gradient.layout is torch.strided and not gradient.is_complex()


def is_partial(value: object) -> bool:
    """Whether a value is a DTensor that the ranks have not put together yet."""
    return any(placement.is_partial() for placement in getattr(value, "placements", ()))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what of a tensor lies on this rank; of a DTensor that is its shard."""
    to_local = getattr(tensor, "to_local", None)
    shard = to_local() if to_local is not None else tensor
    return cast("torch.Tensor", shard).detach()


def _as_its_weight(parameter: torch.Tensor) -> torch.Tensor:
    """Return a parameter's gradient; of one that every rank holds whole, as much as of the weight.

    As of an embedding in parts (tensor parallelism). To cut it takes no word from other ranks.
    """
    gradient = cast("torch.Tensor", parameter.grad)
    if not is_sharded(parameter) or is_sharded(gradient) or type(gradient) is not type(parameter):
        return gradient
    whole, part = cast("DTensor", gradient), cast("DTensor", parameter)
    if whole.device_mesh != part.device_mesh:
        return gradient
    return whole.redistribute(part.device_mesh, part.placements)


def _reason_to_leave_out(
    given: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor
) -> str | None:
    """Return what a gradient is that is not read; ``gradient`` is what of it lies on this rank."""
    if is_partial(given):
        return "a gradient that its ranks have not summed yet"
    if not is_readable(gradient):
        kind = "complex" if gradient.is_complex() else "sparse"
        return f"a {kind} gradient, which is not read"
    if gradient.shape != weight.shape:
        return "a gradient that its ranks hold in other parts than the weight"
    return None


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a DTensor of which not every rank holds the whole."""
    return any(not placement.is_replicate() for placement in getattr(tensor, "placements", ()))


def strip_wrappers(name: str) -> str:
    """Return a parameter's name without what compile, DDP and FSDP put in."""
    *modules, own = name.split(".")
    return ".".join([*(part for part in modules if part not in WRAPPER_NAMES), own])


def _names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): strip_wrappers(name) for name, parameter in model.named_parameters()}


def _shard(tensor: torch.Tensor) -> int:
    """Return which shard lies on this rank: its place along the mesh dimensions that shard it."""
    mesh = getattr(tensor, "device_mesh", None)
    shard = REPLICA
    if mesh is not None and is_sharded(tensor):
        shard = 0
        places = mesh.get_coordinate() or mesh.ndim * (0,)  # None on ranks outside of the mesh
        placements = cast("Sequence[Placement]", getattr(tensor, "placements", ()))
        for size, place, placement in zip(mesh.shape, places, placements, strict=True):
            if not placement.is_replicate():
                shard = shard * size + place
    return shard


def _norms(tensors: Sequence[torch.Tensor], order: float = 2.0) -> torch.Tensor:
    """Return the norm of each tensor, [tensors], at least in float32."""
    wide = [i for i, tensor in enumerate(tensors) if tensor.dtype not in _NARROW]
    narrow = [i for i, tensor in enumerate(tensors) if tensor.dtype in _NARROW]
    norms: list[torch.Tensor | None] = [None] * len(tensors)
    for positions, dtype in ((wide, None), (narrow, torch.float32)):
        if positions:
            some = torch._foreach_norm([tensors[i] for i in positions], order, dtype)  # noqa: SLF001 - as torch's own clipping
            for position, norm in zip(positions, some, strict=True):
                norms[position] = norm
    return _stack([norm for norm in norms if norm is not None])


def _largest(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the largest magnitude of each tensor, [tensors]; NaN where there is one."""
    if any(not tensor.is_cpu for tensor in tensors):
        return _norms(tensors, float("inf"))  # one kernel for many tensors
    # On the CPU the norm of order infinity is 10 to 40 times slower.
    bounds = [torch.aminmax(tensor) for tensor in tensors]
    lowest, highest = _stack([low for low, _ in bounds]), _stack([high for _, high in bounds])
    return torch.maximum(lowest.neg(), highest).to(torch.promote_types(lowest.dtype, torch.float32))


def _stack(scalars: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return 0-d tensors as one, on `_common_device`."""
    device = _common_device(scalars)
    dtype = functools.reduce(torch.promote_types, (scalar.dtype for scalar in scalars))
    return torch.stack([scalar.to(device, dtype, non_blocking=True) for scalar in scalars])


def _common_device(tensors: Sequence[torch.Tensor]) -> torch.device:
    """Return where numbers of several devices meet: the first that is not the CPU.

    A copy to the CPU would have to be waited for before anything is computed from it.
    """
    return next((tensor.device for tensor in tensors if not tensor.is_cpu), tensors[0].device)


def _sample(tensors: Sequence[torch.Tensor], most: int) -> torch.Tensor:
    """Return what is sampled of each tensor, one behind the other, [sampled elements]."""
    device = _common_device(tensors)
    parts = [sampled_elements(tensor, most) for tensor in tensors]
    if any(tensor.device != device for tensor in tensors):
        parts = [part.to(device, non_blocking=True) for part in parts]
    return torch.cat(parts)
