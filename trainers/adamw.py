"""AdamW (https://arxiv.org/abs/1711.05101), over all parameters at once.

PyTorch's own imports its compiler when it is made, which takes about as long as importing PyTorch: a good part of the
time in which a restarted worker does nothing. Its state has the same slots.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class AdamW:
    """state: parameter → {"step", "exp_avg", "exp_avg_sq"}; a parameter gets its own with its first gradient."""

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        self.parameters, self.weight_decay = list(parameters), weight_decay
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every parameter that has a gradient."""
        with_gradient = [parameter for parameter in self.parameters if parameter.grad is not None]
        if not with_gradient:
            return
        moved: list[Tensor] = list(with_gradient)
        gradients = [parameter.grad for parameter in with_gradient if parameter.grad is not None]
        states = [self._state(parameter) for parameter in with_gradient]
        first, second = ([state[slot] for state in states] for slot in ("exp_avg", "exp_avg_sq"))
        steps = []
        for state in states:  # the count lives on the CPU
            state["step"] += 1
            steps.append(float(state["step"]))
        torch._foreach_mul_(moved, 1 - learning_rate * self.weight_decay)
        torch._foreach_lerp_(first, gradients, 1 - BETAS[0])
        torch._foreach_mul_(second, BETAS[1])
        torch._foreach_addcmul_(second, gradients, gradients, 1 - BETAS[1])
        spread = torch._foreach_sqrt(second)
        torch._foreach_div_(spread, [(1 - BETAS[1] ** count) ** 0.5 for count in steps])
        torch._foreach_add_(spread, EPSILON)
        torch._foreach_addcdiv_(moved, first, spread, [-learning_rate / (1 - BETAS[0] ** count) for count in steps])

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]
