"""Which rule moves which parameter, and both rules behind one torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from groundup.core.execution import Precision
from groundup.train.adamw import adamw_foreach, adamw_fused
from groundup.train.config import TrainConfig
from groundup.train.muon import muon_directions, orthogonalize_together, update_scale

#: `matrix`: a linear map inside of a layer. `table`: embeddings and heads, one row for each token or position.
#: `vector`: norms, biases and other parameters without two dimensions.
Role = Literal["matrix", "table", "vector"]
Rule = Literal["adamw", "muon"]


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """The role of each trainable parameter by name, a tied one under its first.

    A linear map is taken to be inside of a layer where it is inside of a ModuleList or Sequential: heads stand outside.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    stacked = {
        id(parameter)
        for stack in model.modules()
        if isinstance(stack, nn.ModuleList | nn.Sequential)
        for parameter in stack.parameters()
    }
    return {
        name: _role(parameter, id(parameter) in tables, id(parameter) in stacked)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _role(parameter: Tensor, is_table: bool, is_stacked: bool) -> Role:
    if parameter.ndim < 2:
        return "vector"
    return "matrix" if parameter.ndim == 2 and is_stacked and not is_table else "table"


def parameter_groups(named: Iterable[tuple[Role, Tensor]], config: TrainConfig) -> list[dict[str, Any]]:
    """The groups of an `Optimizer`: which parameters, which rule, which share of the learning rate, which decay.

    Vectors do not decay: a gain or a bias pulled to zero loses its scale without making the function simpler.

    Args:
        named: role and parameter.
        config: `optimizer` muon moves matrices by Muon, and the rest by AdamW.
    """
    by_role: dict[Role, list[Tensor]] = {"matrix": [], "table": [], "vector": []}
    for role, parameter in named:
        by_role[role].append(parameter)
    decay = config.weight_decay
    if config.optimizer == "adamw":
        groups = [
            _group("adamw", [*by_role["matrix"], *by_role["table"]], decay),
            _group("adamw", by_role["vector"], 0.0),
        ]
    else:
        share = (config.matrix_learning_rate or config.learning_rate) / config.learning_rate
        groups = [
            _group("muon", by_role["matrix"], decay, share),
            _group("adamw", by_role["table"], decay),
            _group("adamw", by_role["vector"], 0.0),
        ]
    return [group for group in groups if group["params"]]


def _group(rule: Rule, parameters: list[Tensor], weight_decay: float, lr_share: float = 1.0) -> dict[str, Any]:
    return {"params": parameters, "rule": rule, "weight_decay": weight_decay, "lr_share": lr_share}


def make_optimizer(model: nn.Module, config: TrainConfig, precision: Precision = "float32") -> Optimizer:
    """The optimizer of a training run; `precision` is that of its plan."""
    roles, parameters = parameter_roles(model), dict(model.named_parameters())
    groups = parameter_groups([(role, parameters[name]) for name, role in roles.items()], config)
    return Optimizer(groups, config, precision)


class Optimizer(torch.optim.Optimizer):
    """AdamW and Muon, each for the groups that ask for it.

    Args:
        groups: from `parameter_groups`.
        config: learning rate, and the memories of both rules.
        precision: of Muon's products: bfloat16, or that of the parameters.
        update: the form of AdamW's update (see `groundup.train.adamw`); None takes the fastest for the device.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        config: TrainConfig,
        precision: Precision = "float32",
        *,
        update: Callable[..., None] | None = None,
    ) -> None:
        defaults = {"lr": config.learning_rate, "rule": "adamw", "weight_decay": config.weight_decay, "lr_share": 1.0}
        super().__init__(groups, defaults)
        self.config, self.update = config, update
        self.product_dtype = torch.bfloat16 if precision == "bfloat16" else None
        self.num_updates = 0

    def set_learning_rate(self, rate: float) -> None:
        """The learning rate of the next step, each group taking its share."""
        for group in self.param_groups:
            group["lr"] = rate * group["lr_share"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.num_updates += 1
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._muon if group["rule"] == "muon" else self._adamw)(parameters, group)
        return loss

    def state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """What is remembered of a parameter, zero at first: AdamW's `mean` and `square`, or Muon's `momentum`."""
        state = self.state[parameter]
        if not state:
            for name in ("momentum",) if self._rule_of(parameter) == "muon" else ("mean", "square"):
                state[name] = torch.zeros_like(parameter)
        return dict(state)

    def _rule_of(self, parameter: Tensor) -> Rule:
        groups = self.param_groups
        return next(group["rule"] for group in groups if any(parameter is one for one in group["params"]))

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state_of(parameter) for parameter in parameters]
        update = self.update or (adamw_foreach if parameters[0].device.type == "mps" else adamw_fused)
        update(
            [local(parameter) for parameter in parameters],
            [local(parameter.grad) for parameter in parameters if parameter.grad is not None],
            [local(state["mean"]) for state in states],
            [local(state["square"]) for state in states],
            self.num_updates,
            lr=group["lr"],
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            epsilon=self.config.epsilon,
            weight_decay=group["weight_decay"],
        )

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Jordan et al. 2024: Nesterov momentum, made orthogonal, scaled by the shape; decoupled weight decay."""
        directions = muon_directions(
            [local(parameter.grad) for parameter in parameters if parameter.grad is not None],
            [local(self.state_of(parameter)["momentum"]) for parameter in parameters],
            momentum=self.config.muon_momentum,
        )
        wholes = [whole(direction, like) for direction, like in zip(directions, parameters, strict=True)]
        updates = orthogonalize_together(wholes, self.product_dtype, iterations=self.config.muon_iterations)
        own = [own_part(update, parameter) for update, parameter in zip(updates, parameters, strict=True)]
        values = [local(parameter) for parameter in parameters]
        torch._foreach_mul_(own, [-group["lr"] * update_scale(parameter.shape) for parameter in parameters])
        torch._foreach_mul_(values, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(values, own)


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor (FSDP2) that this process holds; any other tensor as it is."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(part: Tensor, like: Tensor) -> Tensor:
    """All of a matrix of which this process has the part that it has of `like`; every process must call it."""
    if type(like) in (Tensor, nn.Parameter):
        return part
    from torch.distributed.tensor import DTensor

    if not isinstance(like, DTensor):
        return part
    sharded = DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return sharded.full_tensor()


def own_part(matrix: Tensor, like: Tensor) -> Tensor:
    """The part of a whole matrix that this process holds of `like`."""
    if type(like) in (Tensor, nn.Parameter):
        return matrix
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return matrix
    # Every process has computed the same matrix: nothing needs to be sent.
    return distribute_tensor(matrix, like.device_mesh, like.placements, src_data_rank=None).to_local()
