"""What learns in one phase: the trained tensors of the model, their optimizer, gradient scaler and averages."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from hubtool.core.errors import NumericError
from hubtool.records.backbone import Phase
from hubtool.records.recipe import Train
from hubtool.records.state import Position
from hubtool.training.averages import Averages
from hubtool.training.checkpoint import TrainState
from hubtool.training.optim import lay_beside, make_optimizer, optimizer_state, restore_optimizer, set_lr
from hubtool.training.processes import Buffer
from hubtool.training.staging import not_finite


class Learner:
    """Goes on from ``state``. ``trained`` names what this phase or one before it trains: what a checkpoint holds.

    A step is ``begin``, ``backward`` for each micro-batch, ``update``, ``average``.
    """

    def __init__(
        self,
        model: Any,
        train: Train,
        phase: Phase,
        *,
        trained: Sequence[str],
        device: torch.device,
        state: TrainState,
    ) -> None:
        names, everything = set(trained), model.state_dict(keep_vars=True)
        self._model = model
        self._live: dict[str, Tensor] = {name: value for name, value in everything.items() if name in names}
        self._max_norm = train.clip_grad_norm
        self._optimizer = make_optimizer(train, self._live, phase)
        restore_optimizer(self._optimizer, state.optimizer, state.position.scalars)
        self._scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
        if self._scaler.is_enabled():
            kept = {key: state.position.scalars.get(f"scaler/{key}") for key in self._scaler.state_dict()}
            self._scaler.load_state_dict({k: v for k, v in kept.items() if v is not None} or self._scaler.state_dict())
        self._averages = Averages(self._live, train.ema, state.optimizer)

    @property
    def parameters(self) -> list[Tensor]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def begin(self, lr: float) -> None:
        set_lr(self._optimizer, lr)
        for parameter in self.parameters:
            parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()

    def update(self) -> float | None:
        """Clip and step; returns the norm of the gradient where it is clipped and finite.

        In fp16 a gradient that is not finite skips the step and lowers the scale, as it is meant to be.
        Raises NumericError for one in another precision.
        """
        norm = None
        lay_beside(self.parameters)
        if self._max_norm is not None:
            self._scaler.unscale_(self._optimizer)
            norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self._max_norm))
        is_finite = norm is None or norm - norm == 0
        if not is_finite and not self._scaler.is_enabled():
            raise NumericError("E-NUMERIC-GRAD", f"the gradient's norm is {norm}", do="lower train.optimizer.lr")
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return norm if is_finite else None

    def average(self, global_step: int) -> None:
        self._averages.update(global_step)

    def averaged(self) -> AbstractContextManager[None]:
        """The averages, where there are any, stand in the model for the block."""
        return self._averages.in_place()

    def running(self) -> list[Buffer]:
        """The running statistics that training moves, as they stand before a step."""
        found = []
        for path, module in self._model.named_modules():
            if getattr(module, "running_mean", None) is None:
                continue
            for name, value in module.named_buffers(prefix=path, recurse=False):
                if name in self._live:
                    found.append(Buffer(value=value, before=value.clone(), decay=1 - (module.momentum or 0.0)))
        return found

    def state(self, position: Position) -> TrainState:
        """What a checkpoint of ``position`` holds: references, which go on training.

        Raises NumericError for weights that are not finite.
        """
        if name := not_finite(self._live):
            raise NumericError(
                "E-NUMERIC-WEIGHT",
                f"{name} is not finite after step {position.global_step}",
                do="lower train.optimizer.lr, or set train.clip_grad_norm; the last good checkpoint is kept",
            )
        tensors, scalars = optimizer_state(self._optimizer)
        scalars |= {f"scaler/{key}": value for key, value in self._scaler.state_dict().items()}
        return TrainState(
            position=position.model_copy(update={"scalars": scalars}),
            tensors=dict(self._live),
            optimizer=tensors | self._averages.state(),
        )
