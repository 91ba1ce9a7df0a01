"""The inner optimisers: how a member steps between two exchanges, and what it remembers from round to round.

adamw   AdamW for every parameter (arXiv:1711.05101): 8 bytes of memory a parameter.
muon    Muon (arXiv:2502.16982) for the model's `matrices`, of ours those of the blocks: 4 bytes a parameter; momentum,
        made orthogonal, then scaled to the root mean square of an AdamW step, so that one learning rate serves both.
        AdamW for all else, of ours the embedding, the head and the norms.
"""

from typing import Any

import torch

from shared_models.lm import weights
from shared_models.lm.models import Model


class Inner:
    """One of them at work on a model's parameters, with the memory it had before (empty: it starts afresh)."""

    def __init__(self, model: Model, name: str, memory: weights.Weights) -> None:
        self._parameters = dict(weights.trained(model))
        hidden = model.matrices()
        matrices = {key: each for key, each in self._parameters.items() if name == "muon" and key in hidden}
        rest = [each for key, each in self._parameters.items() if key not in matrices]
        adamw = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self._optimisers: list[torch.optim.Optimizer] = [adamw]
        self._of: dict[str, torch.optim.Optimizer] = dict.fromkeys(self._parameters, adamw)
        if matrices:
            beside = all(each.is_cuda and not hasattr(each, "placements") for each in matrices.values())
            kind = Stacked if beside else torch.optim.Muon
            muon = kind(matrices.values(), weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
            self._optimisers.append(muon)
            self._of |= dict.fromkeys(matrices, muon)
        for key, value in sorted(memory.items()):  # In one order, wherever a part of it is put.
            parameter, _, what = key.partition("/")
            self._of[parameter].state[self._parameters[parameter]][what] = _beside(self._parameters[parameter], value)

    @property
    def steps(self) -> int:
        """The steps it remembers, those of earlier rounds included."""
        return max((int(state["step"]) for state in self._optimisers[0].state.values()), default=0)

    def step(self, rate: float) -> None:
        """One step at this learning rate, along the gradients, which are shortened to norm 1 and then dropped."""
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad()

    def memory(self) -> weights.Weights:
        """A copy of all that it remembers, float32, by `parameter/what`."""
        return {
            f"{key}/{what}": weights.copied(value)
            for key, parameter in self._parameters.items()
            for what, value in sorted(self._of[key].state.get(parameter, {}).items())
        }


class Stacked(torch.optim.Muon):
    """PyTorch's Muon, but all matrices of one shape are made orthogonal at once: other bits, the same step.

    A GPU makes their many small products faster than a program can ask for them one by one: of a model of 16 layers
    that was more than half of a step's time (docs/experiments.md).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        assert closure is None
        for group in self.param_groups:
            matrices, gradients, momenta = list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
            self._init_group(group, matrices, gradients, momenta)
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            for shape in dict.fromkeys(each.shape for each in matrices):
                alike = [number for number, each in enumerate(matrices) if each.shape == shape]
                steps = _orthogonal(torch.stack([updates[number] for number in alike]), group)
                rate = 0.2 * max(shape) ** 0.5 * group["lr"]  # As match_rms_adamw.
                torch._foreach_add_([matrices[number] for number in alike], list(steps.float()), alpha=-rate)


def _orthogonal(stacked: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """Near the nearest orthogonal matrix to each of (count, rows, columns), bfloat16: the iteration of PyTorch's."""
    (a, b, c), tall = group["ns_coefficients"], stacked.shape[1] > stacked.shape[2]
    x = stacked.mT.bfloat16() if tall else stacked.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _beside(parameter: torch.Tensor, value: weights.Tensor) -> torch.Tensor:
    """What is remembered of a parameter, where that is; shared out as it is, if it is of its shape."""
    tensor = torch.tensor(value, device=parameter.device)
    if hasattr(parameter, "placements") and tensor.shape == parameter.shape:
        from torch.distributed.tensor import distribute_tensor  # Heavy, and only they need it who share out.

        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    return tensor
