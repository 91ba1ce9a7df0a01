"""The inner optimisers: how a member steps between two exchanges, and what it remembers from round to round.

adamw   AdamW for every parameter (arXiv:1711.05101): 8 bytes of memory a parameter.
muon    Muon (arXiv:2502.16982) for the matrices of the blocks: 4 bytes a parameter; momentum, made orthogonal, then
        scaled to the root mean square of an AdamW step, so that one learning rate serves both. AdamW for the
        embedding, the head and the norms.
"""

import torch
from torch import nn

from shared_models.lm import weights


class Inner:
    """One of them at work on a model's parameters, with the memory it had before (empty: it starts afresh)."""

    def __init__(self, model: nn.Module, name: str, memory: weights.Weights) -> None:
        self._parameters = dict(weights.trained(model))
        matrices = {
            key: each
            for key, each in self._parameters.items()
            if name == "muon" and each.dim() == 2 and key.startswith("blocks.")
        }
        rest = [each for key, each in self._parameters.items() if key not in matrices]
        adamw = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self._optimisers: list[torch.optim.Optimizer] = [adamw]
        self._of: dict[str, torch.optim.Optimizer] = dict.fromkeys(self._parameters, adamw)
        if matrices:
            muon = torch.optim.Muon(matrices.values(), weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
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


def _beside(parameter: torch.Tensor, value: weights.Tensor) -> torch.Tensor:
    """What is remembered of a parameter, where that is; shared out as it is, if it is of its shape."""
    tensor = torch.tensor(value, device=parameter.device)
    if hasattr(parameter, "placements") and tensor.shape == parameter.shape:
        from torch.distributed.tensor import distribute_tensor  # Heavy, and only they need it who share out.

        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    return tensor
