# SPDX-License-Identifier: Apache-2.0
"""What a network returns, one tensor or several, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def named_outputs(result: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> dict[str, Tensor]:
    """Return all tensors of a result, in their order; a single one is ``pred``, as in metadata.json.

    Example:
        >>> import torch
        >>> list(named_outputs(torch.zeros(1))), list(named_outputs({"local": torch.zeros(1)}))
        (['pred'], ['local'])
    """
    if isinstance(result, Tensor):
        return {"pred": result}
    if isinstance(result, Mapping):
        return dict(result)
    return {str(number): tensor for number, tensor in enumerate(result)}
