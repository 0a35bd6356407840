# SPDX-License-Identifier: Apache-2.0
"""Writes a network as TorchScript and as ONNX, with as many free sizes as the network allows."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.shipping.outputs import named_outputs

OPSET = 18
PROTOBUF_LIMIT = 1_900_000_000  # an ONNX file is one protobuf message, which ends at 2 GB; the graph needs room too
SPATIAL = ("depth", "height", "width")
STEPS = (12, 24, 16)  # voxels by which another size differs, different along each axis
logger = logging.getLogger(__name__)


def write_torchscript(network: nn.Module, image: Tensor, path: Path) -> list[str]:
    """Trace ``network`` and save it; return which of ``batch, height, width`` (and ``depth``) the file leaves free.

    The sides are free if the network says so by an attribute ``exports_any_size``, or, without one, if it
    has a set ``image_size``, to which it resizes every image itself; and if the trace, made at another size, then
    computes the same as the network. Else the file refuses other sizes: a trace would take them and quietly compute
    with constants of the traced size.

    Args:
        network: in evaluation mode, one tensor in, one tensor or several out.
        image: (1, C, H, W) or (1, C, D, H, W), the size that the file must take in any case.
        path: file to write.

    Raises:
        ValueError: a network of several outputs whose sides are not free.
    """
    with torch.inference_mode(False), torch.no_grad(), quiet(), _staged(path) as temporary:
        script = _trace_for_any_size(network, image) if _takes_any_size(network) else None
        axes = ["batch"] if script is None else list(axes_of(image))
        if script is None:
            if len(named_outputs(network(image))) > 1:
                raise ValueError(
                    f"{type(network).__name__} has several outputs, so its trace must fit images of any size."
                )
            traced = torch.jit.trace(network, _twice(image), check_trace=False)
            script = torch.jit.script(_OneSize(traced, list(image.shape[2:])).eval())
        torch.jit.save(script, str(temporary))
    return axes


def write_onnx(network: nn.Module, image: Tensor, path: Path) -> list[str]:
    """Export ``network`` with PyTorch's ``torch.export``-based exporter; return which axes the file leaves free.

    The outputs have the names that the network gives them. The sides are free under the same condition as for
    `write_torchscript`. Weights lie inside the file; beyond 1.9 GB they go to ``<path>.data`` beside it, since one ONNX
    file ends at 2 GB.

    Args:
        network: in evaluation mode, one tensor in, one tensor or several out.
        image: (1, C, H, W) or (1, C, D, H, W), the size that the file must take in any case.
        path: file to write.

    Raises:
        ImportError: the packages of the extra ``export`` are missing.
        RuntimeError: the exporter failed even with all sizes fixed.
    """
    require_onnx()
    external = _weight_bytes(network) > PROTOBUF_LIMIT
    attempts: list[dict[str, int]] = [{"batch": 0}, {}]
    with _staged(path) as temporary, torch.no_grad(), quiet():
        names = list(named_outputs(network(image)))
        for axes in [axes_of(image), *attempts] if _takes_any_size(network) else attempts:
            try:
                _export_onnx(network, image, temporary, axes, names, external)
                break
            except Exception as error:  # the exporter raises many kinds when an axis cannot be free
                if not axes:
                    raise RuntimeError(f"the ONNX exporter failed: {_first_line(error)}") from error
                logger.debug("ONNX with free %s failed: %s", list(axes), error)
        return _free_axes(temporary, image)


def axes_of(image: Tensor) -> dict[str, int]:
    """Return the axes of an image that may be free, by name."""
    sides = image.ndim - 2
    return {"batch": 0, **{name: axis for axis, name in enumerate(SPATIAL[-sides:], start=2)}}


def require_onnx() -> None:
    """Check that the packages for ONNX are here.

    Raises:
        ImportError: they are not; the message names the pip command.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{error.name} is not installed; pip install "monai-ext[export]"') from error


def opset_of(path: Path) -> int:
    """Return the version of the standard operator set that an ONNX file uses."""
    import onnx

    imports = onnx.load(str(path), load_external_data=False).opset_import
    return next(int(entry.version) for entry in imports if entry.domain in ("", "ai.onnx"))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' own notes (deprecations, constants in a trace) from the user's screen."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


def _export_onnx(
    network: nn.Module, image: Tensor, path: Path, axes: dict[str, int], names: list[str], external: bool
) -> None:
    example = _another_size(network, image) if "height" in axes else image
    # a convolution of volumes without a bias gets one of a wrong shape (onnxscript 0.7.2), which the rewriting removes
    rewrite = image.ndim > 4
    program = torch.onnx.export(
        network,
        (_twice(example),),  # a batch of one would be taken for a constant
        input_names=["image"],
        output_names=names,
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=({axis: name for name, axis in axes.items()},) if axes else None,
        optimize=rewrite,
        verbose=False,
    )
    program = cast("torch.onnx.ONNXProgram", program)  # it is, with dynamo
    if not rewrite:
        _tidy(program)
    program.save(str(path), external_data=external)
    if not axes:
        return
    free = _free_axes(path, image)
    if set(axes) - set(free):
        raise RuntimeError(f"the exporter fixed {sorted(set(axes) - set(free))}")


def _tidy(program: torch.onnx.ONNXProgram) -> None:
    """Compute constants, and drop what is unused or there twice.

    That is PyTorch's own ``optimize=True`` without its rewriting of patterns, which takes a quarter to a third of an
    export's time and shortens no inference, since onnxruntime rewrites a graph when it loads it. Small networks with
    and without: DeSAM 1165 and 1296 nodes, 23.2 and 23.7 ms; SAMora 656 and 749 nodes, 8.3 and 8.1 ms.
    """
    from onnxscript import optimizer

    optimizer.fold_constants(program.model)
    optimizer.optimize(program.model, num_iterations=0)  # no rewriting, only what comes after it


def _free_axes(path: Path, image: Tensor) -> list[str]:
    """Read from the file itself which axes of its input have no fixed size."""
    import onnx

    sides = onnx.load(str(path), load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return [name for name, axis in axes_of(image).items() if not sides[axis].HasField("dim_value")]


class _OneSize(nn.Module):
    """Lets a traced network see only the size that it was traced for; TorchScript cannot raise our own error."""

    def __init__(self, network: nn.Module, sides: list[int]) -> None:
        super().__init__()
        self.network = network
        self.sides = sides

    def forward(self, image: Tensor) -> Tensor:
        if list(image.shape[2:]) != self.sides:
            raise ValueError(
                f"this file takes images of {self.sides}, got {image.shape[2:]}; resize them, or export with "
                "image_size set."
            )
        return self.network(image)


def _trace_for_any_size(network: nn.Module, image: Tensor) -> torch.jit.ScriptModule | None:
    """Trace at another size than the image's; None if that computes something else at the image's own."""
    expected = list(named_outputs(network(image)).values())
    try:
        script = torch.jit.trace(network, _twice(_another_size(network, image)), check_trace=False)
        found = list(named_outputs(script(image)).values())
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    except Exception as error:  # whatever a trace that holds constants stumbles over
        logger.debug("TorchScript with free sizes failed: %s", error)
        return None
    return script


def _takes_any_size(network: nn.Module) -> bool:
    """Whether the network says that its export fits any image, or else brings every image to one size itself."""
    return bool(getattr(network, "exports_any_size", getattr(network, "image_size", None) is not None))


def _another_size(network: nn.Module, image: Tensor) -> Tensor:
    """Stretch the image to a size that the network has nowhere inside; equal sizes would be taken for one."""
    inside = getattr(network, "image_size", None) or tuple(image.shape[2:])
    sides = (inside,) * (image.ndim - 2) if isinstance(inside, int) else inside
    size = [side + step for side, step in zip(sides, STEPS[-len(sides) :], strict=True)]
    return nn.functional.interpolate(image, size=size, mode="nearest")


def _twice(image: Tensor) -> Tensor:
    return torch.cat([image, image])


def _weight_bytes(network: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in network.state_dict().values())


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a temporary folder beside it; on success move all of that folder up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the name is kept: a TorchScript archive holds it, and so does an ONNX file with its weights in a second file
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for file in sorted(Path(folder).iterdir()):
            os.replace(file, path.parent / file.name)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
