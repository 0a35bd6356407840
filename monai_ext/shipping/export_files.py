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

import torch
import torch.nn as nn
from torch import Tensor

OPSET = 18
PROTOBUF_LIMIT = 1_900_000_000  # an ONNX file is one protobuf message, which ends at 2 GB; the graph needs room too
AXES = {"batch": 0, "height": 2, "width": 3}
logger = logging.getLogger(__name__)


def write_torchscript(network: nn.Module, image: Tensor, path: Path) -> list[str]:
    """Trace ``network`` and save it; return which of ``batch, height, width`` the file leaves free.

    Height and width are free if the network says so by an attribute ``exports_any_size``, or, without one, if it
    has a set ``image_size``, to which it resizes every image itself; and if the trace, made at another size, then
    computes the same as the network. Else the file refuses other sizes: a trace would take them and quietly compute
    with constants of the traced size.

    Args:
        network: in evaluation mode, one tensor in, one tensor out.
        image: (1, C, H, W), the size that the file must take in any case.
        path: file to write.
    """
    with torch.inference_mode(False), torch.no_grad(), quiet(), _staged(path) as temporary:
        script = _trace_for_any_size(network, image) if _takes_any_size(network) else None
        axes = ["batch"] if script is None else list(AXES)
        if script is None:
            traced = torch.jit.trace(network, image.repeat(2, 1, 1, 1), check_trace=False)
            script = torch.jit.script(_OneSize(traced, image.shape[2], image.shape[3]).eval())
        torch.jit.save(script, str(temporary))
    return axes


def write_onnx(network: nn.Module, image: Tensor, path: Path) -> list[str]:
    """Export ``network`` with PyTorch's ``torch.export``-based exporter; return which axes the file leaves free.

    Height and width are free under the same condition as for `write_torchscript`. Weights lie inside the file;
    beyond 1.9 GB they go to ``<path>.data`` beside it, since one ONNX file ends at 2 GB.

    Args:
        network: in evaluation mode, one tensor in, one tensor out.
        image: (1, C, H, W), the size that the file must take in any case.
        path: file to write.

    Raises:
        ImportError: the packages of the extra ``export`` are missing.
        RuntimeError: the exporter failed even with all sizes fixed.
    """
    require_onnx()
    external = _weight_bytes(network) > PROTOBUF_LIMIT
    attempts: list[dict[str, int]] = [{"batch": 0}, {}]
    with _staged(path) as temporary, torch.no_grad(), quiet():
        for axes in [AXES, *attempts] if _takes_any_size(network) else attempts:
            try:
                _export_onnx(network, image, temporary, axes, external)
                break
            except Exception as error:  # the exporter raises many kinds when an axis cannot be free
                if not axes:
                    raise RuntimeError(f"the ONNX exporter failed: {_first_line(error)}") from error
                logger.debug("ONNX with free %s failed: %s", list(axes), error)
        return _free_axes(temporary)


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


def _export_onnx(network: nn.Module, image: Tensor, path: Path, axes: dict[str, int], external: bool) -> None:
    example = _another_size(network, image) if "height" in axes else image
    torch.onnx.export(
        network,
        (example.repeat(2, 1, 1, 1),),  # a batch of one would be taken for a constant
        str(path),
        input_names=["image"],
        output_names=["pred"],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=({axis: name for name, axis in axes.items()},) if axes else None,
        external_data=external,
        verbose=False,
    )
    if not axes:
        return
    free = _free_axes(path)
    if set(axes) - set(free):
        raise RuntimeError(f"the exporter fixed {sorted(set(axes) - set(free))}")


def _free_axes(path: Path) -> list[str]:
    """Read from the file itself which axes of its input have no fixed size."""
    import onnx

    sides = onnx.load(str(path), load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return [name for name, axis in AXES.items() if not sides[axis].HasField("dim_value")]


class _OneSize(nn.Module):
    """Lets a traced network see only the size that it was traced for; TorchScript cannot raise our own error."""

    def __init__(self, network: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.height = height
        self.width = width

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[2] != self.height or image.shape[3] != self.width:
            raise ValueError(
                f"this file takes images of {self.height} x {self.width}, got {image.shape[2]} x {image.shape[3]}; "
                "resize them, or export with image_size set."
            )
        return self.network(image)


def _trace_for_any_size(network: nn.Module, image: Tensor) -> torch.jit.ScriptModule | None:
    """Trace at another size than the image's; None if that computes something else at the image's own."""
    expected = network(image)
    try:
        script = torch.jit.trace(network, _another_size(network, image).repeat(2, 1, 1, 1), check_trace=False)
        torch.testing.assert_close(script(image), expected, rtol=1e-3, atol=1e-3)
    except Exception as error:  # whatever a trace that holds constants stumbles over
        logger.debug("TorchScript with free sizes failed: %s", error)
        return None
    return script


def _takes_any_size(network: nn.Module) -> bool:
    """Whether the network says that its export fits any image, or else brings every image to one size itself."""
    return bool(getattr(network, "exports_any_size", getattr(network, "image_size", None) is not None))


def _another_size(network: nn.Module, image: Tensor) -> Tensor:
    """Stretch the image to a size that the network has nowhere inside; equal sizes would be taken for one."""
    inside = getattr(network, "image_size", None) or (image.shape[2], image.shape[3])
    height, width = (inside, inside) if isinstance(inside, int) else inside
    return nn.functional.interpolate(image, size=(height + 24, width + 16), mode="nearest")


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
