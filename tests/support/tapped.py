"""What a tap has taken, and whether it is on torch's stack."""

import torch

from trackside.capture.attention import AttentionTap


def layers_of(tap: AttentionTap) -> list[int]:
    return [captured.call.layer for captured in tap.take()]


def is_hooked() -> bool:
    return torch._C._len_torch_function_stack() > 0
