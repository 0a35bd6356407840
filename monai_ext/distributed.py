# SPDX-License-Identifier: Apache-2.0
"""What training code asks about the other processes; everything also works without any."""

from __future__ import annotations

import logging
import os
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn as nn

from monai_ext.errors import InputError

logger = logging.getLogger(__name__)


def rank() -> int:
    """Return this process's number, 0 without `torch.distributed`."""
    return dist.get_rank() if _running() else 0


def world_size() -> int:
    """Return the number of processes that train together, 1 without `torch.distributed`."""
    return dist.get_world_size() if _running() else 1


def is_main() -> bool:
    """Return whether this process is the one that writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def local_device() -> torch.device:
    """Return the GPU that torchrun meant for this process, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def start(timeout_minutes: float = 120.0) -> None:
    """Join the process group that torchrun describes: NCCL on GPUs, gloo on CPUs.

    With ``--max-restarts`` torchrun starts all processes again when one has died. It keeps the store in which they
    find each other, with the addresses of the dead, unless ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1``; then a warning
    says so.

    Args:
        timeout_minutes: how long processes wait for each other; validation of large volumes may be uneven.

    Raises:
        InputError: the program was not started by torchrun.
    """
    if "RANK" not in os.environ:
        raise InputError(
            "multi_gpu_*.json needs several processes; start it by "
            "`torchrun --nproc_per_node=2 -m monai.bundle run ...`, or leave that file out."
        )
    if (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    ):
        logger.warning(
            "torchrun --max-restarts may bring processes together with the addresses of dead ones, which fails; start "
            "it with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment."
        )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))


def stop() -> None:
    """Leave the process group."""
    if _running():
        dist.destroy_process_group()


def parallel(network: nn.Module, device: torch.device | str) -> nn.parallel.DistributedDataParallel:
    """Wrap a network so that all processes train it together.

    A network some of whose trainable parameters get no gradient says so by an attribute ``find_unused_parameters``
    that is true; without it the processes would wait for each other for ever.
    """
    device = torch.device(device)
    ids = [device.index] if device.type == "cuda" else None
    unused = bool(getattr(network, "find_unused_parameters", False))
    return nn.parallel.DistributedDataParallel(network.to(device), device_ids=ids, find_unused_parameters=unused)


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network inside `DistributedDataParallel`, `DataParallel` and `torch.compile`.

    Its state dict has the plain names, which load anywhere.

    Example:
        >>> unwrap(nn.DataParallel(nn.Linear(1, 1)))
        Linear(in_features=1, out_features=1, bias=True)
    """
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while isinstance(network, wrappers) or hasattr(network, "_orig_mod"):
        inner = network.module if isinstance(network, wrappers) else network._orig_mod
        if not isinstance(inner, nn.Module):
            break
        network = inner
    return network


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()
