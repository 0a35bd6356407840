# SPDX-License-Identifier: Apache-2.0
"""Which knob of the command line belongs to which step of a registration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monai_ext.errors import InputError
from monai_ext.extras import check_flags
from monai_ext.registration import SAMAffine, SAMCoarse, optimise_instance

ORDER = ("affine", "coarse", "deform", "instance")
STEPS: dict[str, Callable[..., Any]] = {"affine": SAMAffine, "coarse": SAMCoarse, "instance": optimise_instance}
_NETWORK = "deform"  # whose knobs are those of its bundle
_OF_THE_BUNDLE = ("spacing", "seed")  # voxels of the embedded scans, and random weights
_PREFIXED_ONLY = ("instance",)


@dataclass(frozen=True)
class RegistrationKnobs:
    """Arguments of each step, and what is left for the bundle's ``inference.json``.

    Attributes:
        steps: the steps to take, in their order.
        arguments: by step, what its class or function is given.
        deform: knobs of the other bundle whose network takes the step ``deform``.
        bundle: all other knobs.
    """

    steps: tuple[str, ...]
    arguments: Mapping[str, dict[str, object]] = field(default_factory=dict)
    deform: Mapping[str, object] = field(default_factory=dict)
    bundle: Mapping[str, object] = field(default_factory=dict)


def registration_knobs(steps: Sequence[str], knobs: Mapping[str, object]) -> RegistrationKnobs:
    """Give each knob to those that know its name.

    A plain name means every step that has it; ``coarse_stride`` means the coarse step alone and has the last word.
    ``spacing`` and ``seed`` mean the bundle, the names of ``instance`` always need their prefix, and ``deform_spacing``
    is the ``spacing`` of the bundle whose network takes that step.

    Raises:
        InputError: unknown steps, steps out of order, a knob of a step that is not taken, or a value of another kind.

    Example:
        >>> found = registration_knobs(["affine", "coarse"], {"stride": 8, "coarse_stride": 4, "amp": True})
        >>> found.arguments, found.bundle
        ({'affine': {'stride': 8}, 'coarse': {'stride': 4}}, {'amp': True})
    """
    _check_steps(steps)
    check_flags(knobs)
    arguments: dict[str, dict[str, object]] = {step: {} for step in steps if step != _NETWORK}
    own: dict[str, object] = {}
    deform: dict[str, object] = {}
    rest: dict[str, object] = {}
    for name, value in knobs.items():
        step, _, argument = name.partition("_")
        sharing = [s for s in STEPS if s not in _PREFIXED_ONLY and name not in _OF_THE_BUNDLE and name in _defaults(s)]
        if step in STEPS and argument in _defaults(step):
            own[name] = value
        elif step == _NETWORK and argument:
            _require_taken(name, [step], steps)
            deform[argument] = value
        elif sharing:
            _require_taken(name, sharing, steps)
            for other in set(sharing) & set(steps):
                arguments[other][name] = _checked(other, name, value)
        else:
            rest[name] = value
    for name, value in own.items():
        step, _, argument = name.partition("_")
        _require_taken(name, [step], steps)
        arguments[step][argument] = _checked(step, argument, value)
    return RegistrationKnobs(tuple(steps), arguments, deform, rest)


def _check_steps(steps: Sequence[str]) -> None:
    unknown = [step for step in steps if step not in ORDER]
    if unknown or not steps:
        raise InputError(f"steps must be some of {', '.join(ORDER)}, got {', '.join(unknown) or 'none'}.")
    if [ORDER.index(step) for step in steps] != sorted({ORDER.index(step) for step in steps}):
        raise InputError(f"steps must come once each, in the order {', '.join(ORDER)}; got {', '.join(steps)}.")


def _defaults(step: str) -> dict[str, object]:
    """Return the knobs of a step with their defaults."""
    found = inspect.signature(STEPS[step]).parameters.values()
    return {p.name: p.default for p in found if isinstance(p.default, (bool, int, float, str))}


def _require_taken(name: str, sharing: Sequence[str], steps: Sequence[str]) -> None:
    if not set(sharing) & set(steps):
        raise InputError(
            f"{name}: is a knob of {' and '.join(sharing)}, which --steps {','.join(steps)} does not take."
        )


def _checked(step: str, name: str, value: object) -> object:
    kind = type(_defaults(step)[name])
    kinds: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{name} of step {step} must be of the kind {kind.__name__}, got {value!r}.")
    return value
