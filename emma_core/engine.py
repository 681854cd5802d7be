"""Device, precision and processes of a training run: the one place that asks accelerate.

Started by ``accelerate launch`` or ``torchrun``, several processes train together: each sees its own part of the
data, gradients are averaged before every step, and the first process writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from emma_core.runtime import resolve_device, resolve_dtype, resolve_precision

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from torch import nn

    from emma_core.training_config import Precision


class Engine:
    """Where a run computes, in which precision, and with whom.

    Attributes:
        device: of this process.
        dtype: of the forward passes.
        rank: number of this process, 0 for the first.
        world: number of processes.
    """

    def __init__(self, device: str = "auto", precision: Precision = "fp32") -> None:
        """Join the other processes, if there are any.

        Args:
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; with several processes, each has its own GPU.
            precision: of the forward passes: ``fp32``, ``bf16``, or ``auto``, see
                :func:`emma_core.runtime.resolve_precision`; weights and their updates stay float32.

        Raises:
            UsageError: no such device or precision.
        """
        from accelerate import Accelerator  # type: ignore[import-untyped]

        wanted = resolve_device(device)
        self.dtype = resolve_dtype(resolve_precision(precision, wanted))
        # The precision is applied below: accelerate would hold all runs of a process to that of the first.
        self._accelerator = Accelerator(cpu=wanted.type == "cpu", mixed_precision="no")
        self.world: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.device = wanted if self.world == 1 else self._accelerator.device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute a forward pass in the precision of the run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss to those that are there."""
        self._accelerator.backward(loss)

    def to_device(self, batch: Any) -> Any:  # noqa: ANN401 - whatever a stage's loader gives
        """Move a batch, any nesting of tensors, to the device."""
        from accelerate.utils import send_to_device  # type: ignore[import-untyped]

        return send_to_device(batch, self.device, non_blocking=True)

    def average(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Average numbers over the processes and return them as floats; waits for the device once."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        averaged = self._accelerator.reduce(stacked, "mean") if self.world > 1 else stacked
        return dict(zip(values, averaged.tolist(), strict=True))

    def average_gradients(self, module: nn.Module) -> None:
        """Average gradients, and the running statistics of normalisation layers, over the processes."""
        if self.world == 1:
            return
        # In one message. There is no DistributedDataParallel here, because a step may call backward several times.
        tensors = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        tensors += [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        flat = self._accelerator.reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]), "mean")
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._accelerator.wait_for_everyone()
