"""The inner optimisers: how a member steps between two exchanges, and what it remembers from round to round.

adamw      AdamW for every parameter (arXiv:1711.05101): 8 bytes of memory a parameter.
muon       Muon (arXiv:2502.16982) for the model's `matrices`, of ours those of the blocks: 4 bytes a parameter;
           momentum, made orthogonal, then scaled to the root mean square of an AdamW step, so that one learning rate
           serves both. AdamW for all else, of ours the embedding, the head and the norms.
adafactor  Adafactor (arXiv:1804.04235): a number for each row and each column of a matrix, and no momentum. Steps are
           in proportion to the rate alone, as AdamW's are, and to no weights that begin at nought.
lamb       LAMB (arXiv:1904.00962): an AdamW step made as long as the parameter itself, times the rate; 8 bytes.
lion       Lion (arXiv:2302.06675): the sign of a momentum, 4 bytes; at 0.2 of the rate, which is about the root mean
           square of an AdamW step, and so much more weight decay.
scion      Scion (arXiv:2502.07529): 4 bytes for every parameter. Of `matrices` a momentum, made orthogonal, of a length
           that lets one rate serve models of all widths; of other tables its sign, as Lion; of vectors its direction.

The last three are of a library: see `borrowed`.
"""

from typing import Any

import torch

from shared_models.lm import borrowed, weights
from shared_models.lm.models import Model

DECAY = 0.1  # Of weights, in a step: this times the rate.
BETAS = (0.9, 0.95)
SIGN = 0.2  # Of the rate, for a step by signs: as Muon's match_rms_adamw.
RADIUS = 4.0  # A step's spectral norm is this times the rate times √(rows / columns).
TOLD = {"weight_norm", "adam_norm", "trust_ratio"}  # What LAMB says of a step, and does not go on from.


class Inner:
    """One of them at work on a model's parameters, with the memory it had before (empty: it starts afresh)."""

    def __init__(self, model: Model, name: str, memory: weights.Weights) -> None:
        self._parameters, self._scale = dict(weights.trained(model)), SIGN if name == "lion" else 1.0
        hidden = model.matrices()
        matrices = {key: each for key, each in self._parameters.items() if name == "muon" and key in hidden}
        rest = {key: each for key, each in self._parameters.items() if key not in matrices}
        first = _of_all(name, rest, hidden)
        self._optimisers: list[torch.optim.Optimizer] = [first]
        self._of: dict[str, torch.optim.Optimizer] = dict.fromkeys(self._parameters, first)
        if matrices:
            beside = all(each.is_cuda and not hasattr(each, "placements") for each in matrices.values())
            kind = Stacked if beside else torch.optim.Muon
            muon = kind(matrices.values(), weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
            self._optimisers.append(muon)
            self._of |= dict.fromkeys(matrices, muon)
        for key, value in sorted(memory.items()):  # In one order, wherever a part of it is put.
            parameter, _, what = key.partition("/")
            if what == "step" and name in borrowed.NAMES:
                for group in first.param_groups:
                    group["step"] = int(value)
                continue
            self._of[parameter].state[self._parameters[parameter]][what] = _beside(self._parameters[parameter], value)

    @property
    def steps(self) -> int:
        """The steps it remembers, those of earlier rounds included."""
        first = self._optimisers[0]
        each = (int(state.get("step", 0)) for state in first.state.values())
        return int(max(first.param_groups[0].get("step", 0), *each, 0))

    def step(self, rate: float) -> None:
        """One step at this learning rate, along the gradients, which are shortened to norm 1 and then dropped."""
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * self._scale
            optimiser.step()
            optimiser.zero_grad()

    def memory(self) -> weights.Weights:
        """A copy of all that it remembers, float32, by `parameter/what`: steps too, which a library may count once."""
        kept = weights.Weights()
        for key, parameter in self._parameters.items():
            state = dict(self._of[key].state.get(parameter, {}))
            if state and "step" in (group := self._of[key].param_groups[0]):
                state["step"] = torch.tensor(float(group["step"]))
            kept |= {f"{key}/{what}": weights.copied(state[what]) for what in sorted(state.keys() - TOLD)}
        return kept


def _of_all(name: str, named: dict[str, torch.nn.Parameter], matrices: set[str]) -> torch.optim.Optimizer:
    """The optimiser of this name, or of muon that of what is no matrix. Raises `Refused`, as `borrowed.version`."""
    parameters = named.values()
    if name == "adafactor":  # Of weights whose root mean square is below 1 that does not count.
        return torch.optim.Adafactor(parameters, eps=(None, 1.0), weight_decay=DECAY)
    if not borrowed.version(name):
        return torch.optim.AdamW(parameters, betas=BETAS, weight_decay=DECAY, fused=True)
    import pytorch_optimizer  # Two seconds.
    from pytorch_optimizer.optimizer.scion import LMONorm

    match name:
        case "lamb":  # As in the paper: weights decay within the step, and no first steps are longer.
            kept = {"weight_decouple": False, "adam_debias": True}
            return pytorch_optimizer.Lamb(parameters, betas=BETAS, weight_decay=DECAY, **kept)
        case "lion":
            return pytorch_optimizer.Lion(parameters, weight_decay=DECAY / SIGN)
    hidden = [each for key, each in named.items() if key in matrices]
    rest = [each for key, each in named.items() if key not in matrices]
    tables, vectors = ([each for each in rest if (each.dim() > 1) is table] for table in (True, False))
    groups: list[dict[str, Any]] = [
        {"params": hidden, "norm_type": LMONorm.SPECTRAL, "scale": RADIUS},
        {"params": tables, "norm_type": LMONorm.SIGN, "norm_kwargs": {"normalize": False}, "scale": SIGN},
        {"params": vectors, "norm_type": LMONorm.BIAS, "scale": SIGN},
    ]
    return pytorch_optimizer.SCION(groups, weight_decay=DECAY)


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
