# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from monai_ext.engines import GuardedTrainer
from monai_ext.errors import InputError


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class Heads(nn.Module):
    """Two convolutions, the first frozen, whose training output is a list (deep supervision)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(1, 4, 3, padding=1).requires_grad_(False)
        self.head = nn.Conv2d(4, 1, 1)
        self.seen: list[object] = []

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        logits = self.head(self.trunk(image))
        self.seen.append((type(image), logits.dtype))
        return [logits, 2 * logits, 3 * logits] if self.training else logits


def mean_square(pred: list[Tensor], label: Tensor) -> Tensor:
    return torch.stack([((p - label) ** 2).mean() for p in pred]).mean()


def batch(size: int = 2, seed: int = 1, fill: float | None = None) -> dict[str, object]:
    """Collate scans with file names, as a data loader does; ``fill`` replaces one voxel of the last."""
    numbers = torch.Generator().manual_seed(seed)
    items = []
    for number in range(size):
        image = MetaTensor(
            torch.rand(1, 4, 4, generator=numbers), meta={"filename_or_obj": f"scan{seed}_{number}.nii.gz"}
        )
        items.append({"image": image, "label": torch.rand(1, 4, 4, generator=numbers), "slice": number})
    if fill is not None:
        items[-1]["image"][0, 0, 0] = fill
    return list_data_collate(items)


def trainer_of(
    network: nn.Module,
    batches: list[dict[str, object]],
    loss: Callable[..., Tensor] = mean_square,
    rate: float = 0.1,
    **settings: object,
) -> GuardedTrainer:
    return GuardedTrainer(
        device=torch.device("cpu"),
        max_epochs=settings.pop("max_epochs", 1),
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), rate),
        loss_function=loss,
        **settings,
    )


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def change(network: nn.Module, before: dict[str, Tensor]) -> float:
    """Return the norm of what training added to the weights."""
    after = network.state_dict()
    return torch.sqrt(sum(((after[name] - before[name]) ** 2).sum() for name in before)).item()


def test_frozen_weights_stay_bit_identical_while_the_others_train() -> None:
    network = Heads()
    before = weights(network)
    trainer_of(network, [batch(), batch(seed=2)], max_epochs=3).run()
    assert torch.equal(network.trunk.weight, before["trunk.weight"])
    assert not torch.equal(network.head.weight, before["head.weight"])


def test_network_sees_plain_tensors_and_the_output_keeps_the_metadata() -> None:
    network = Heads()
    trainer = trainer_of(network, [batch()], decollate=False)
    trainer.run()
    assert network.seen == [(Tensor, torch.float32)]
    assert trainer.state.output["image"].meta["filename_or_obj"] == ["scan1_0.nii.gz", "scan1_1.nii.gz"]
    assert len(trainer.state.output["pred"]) == 3


def test_decollated_output_has_an_item_a_scan_with_all_heads() -> None:
    trainer = trainer_of(Heads(), [batch()])
    trainer.run()
    assert [[tuple(p.shape) for p in item["pred"]] for item in trainer.state.output] == [[(1, 4, 4)] * 3] * 2
    assert isinstance(trainer.state.output[0]["loss"], float)


def test_same_steps_as_the_parent() -> None:
    ours, theirs = Heads(), Heads()
    theirs.load_state_dict(ours.state_dict())
    batches = [batch(seed=seed) for seed in range(5)]
    trainer = trainer_of(ours, batches, max_epochs=2, accumulation_steps=2)
    trainer.run()
    with mock.patch.object(GuardedTrainer, "_iteration", super(GuardedTrainer, trainer)._iteration.__func__):
        trainer_of(theirs, batches, max_epochs=2, accumulation_steps=2).run()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_events_come_in_the_order_of_the_parent() -> None:
    trainer = trainer_of(Heads(), [batch()])
    fired: list[object] = []
    for event in (*IterationEvents, Events.ITERATION_COMPLETED):
        trainer.add_event_handler(event, lambda _, event=event: fired.append(event))
    trainer.run()
    expected = ["FORWARD_COMPLETED", "LOSS_COMPLETED", "BACKWARD_COMPLETED", "MODEL_COMPLETED", "ITERATION_COMPLETED"]
    assert [event.name for event in fired] == expected


def test_nan_voxel_stops_before_anything_changes_and_names_the_files() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1))
    before: dict[str, Tensor] = {}
    trainer = trainer_of(network, [batch(), batch(seed=7, fill=float("nan"))], lambda p, y: ((p - y) ** 2).mean())
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: before.update(weights(network)))
    with pytest.raises(
        InputError,
        match=r"^scan7_0\.nii\.gz \(slice 0\), scan7_1\.nii\.gz \(slice 1\): the image is not finite .*epoch 1, "
        r"iteration 2 \(learning rate 0\.1\)",
    ):
        trainer.run()
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(value.isfinite().all() for value in before.values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_loss_stops_before_weights_change(bad: float) -> None:
    network = Heads()
    before = weights(network)
    trainer = trainer_of(network, [batch()], lambda pred, label: mean_square(pred, label) * bad)
    with pytest.raises(InputError, match=rf"scan1_0.*: the loss is {bad} at"):
        trainer.run()
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_non_finite_gradient_of_a_finite_loss_names_all_files_of_the_step() -> None:
    network = Heads()
    before = weights(network)

    def loss(pred: list[Tensor], label: Tensor) -> Tensor:
        return torch.sqrt((pred[0] - pred[0]).sum())  # 0, with an infinite slope times 0

    trainer = trainer_of(network, [batch(seed=3), batch(seed=4)], loss, accumulation_steps=2)
    with pytest.raises(InputError, match=r"scan3_0.*scan4_1.*: the norm of the gradient is nan"):
        trainer.run()
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_two_accumulated_half_batches_equal_one_batch() -> None:
    whole, halves = Heads(), Heads()
    halves.load_state_dict(whole.state_dict())
    full = batch(size=4)
    parts = [{k: full[k][start : start + 2] for k in ("image", "label")} for start in (0, 2)]
    trainer_of(whole, [full], max_epochs=3).run()
    trainer_of(halves, parts, max_epochs=3, accumulation_steps=2).run()
    torch.testing.assert_close(halves.state_dict(), whole.state_dict(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.01, 0.01), (1.0, 1.0)])
def test_clipping_bounds_the_norm_of_a_large_gradient(clip_norm: float, expected: float) -> None:
    network = Heads()
    before = weights(network)
    trainer_of(network, [batch()], lambda p, y: 100 * mean_square(p, y), rate=1.0, clip_norm=clip_norm).run()
    assert change(network, before) == pytest.approx(expected, rel=1e-4)


def test_clipping_leaves_a_small_gradient_alone() -> None:
    clipped, free = Heads(), Heads()
    clipped.load_state_dict(free.state_dict())
    trainer_of(clipped, [batch()], clip_norm=1e6).run()
    trainer_of(free, [batch()]).run()
    torch.testing.assert_close(clipped.state_dict(), free.state_dict(), rtol=0, atol=0)


def test_amp_on_a_cpu_is_bfloat16_in_the_network_and_float32_in_the_loss() -> None:
    network = Heads()
    types = []

    def loss(pred: list[Tensor], label: Tensor) -> Tensor:
        types.extend([pred[0].dtype, (pred[0] @ label).dtype])
        return mean_square(pred, label)

    trainer = trainer_of(network, [batch()], loss, amp=True)
    trainer.run()
    assert network.seen == [(Tensor, torch.bfloat16)]
    assert types == [torch.float32, torch.float32]
    assert trainer.scaler is None
    assert network.head.weight.dtype == torch.float32


def test_clipping_does_not_see_the_scale_of_float16() -> None:
    network = Heads()
    before = weights(network)
    trainer = trainer_of(
        network,
        [batch()],
        lambda p, y: 100 * mean_square(p, y),
        rate=1.0,
        clip_norm=0.5,
        amp=True,
        amp_kwargs={"dtype": torch.float16},
    )
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    trainer.run()
    assert network.seen == [(Tensor, torch.float16)]
    assert trainer.scaler.get_scale() == 16.0
    assert change(network, before) == pytest.approx(0.5, rel=1e-3)


def test_scaler_skips_an_overflowing_step_and_halves_its_scale() -> None:
    network = Heads()
    before = weights(network)
    trainer = trainer_of(
        network, [batch()], lambda p, y: 1e35 * mean_square(p, y), amp=True, amp_kwargs={"dtype": torch.float16}
    )
    trainer.run()
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert trainer.scaler.get_scale() == 2.0**15


def test_scaler_survives_a_second_run() -> None:
    trainer = trainer_of(Heads(), [batch()], amp=True, amp_kwargs={"dtype": torch.float16})
    trainer.run()
    first = trainer.scaler
    trainer.state.max_epochs = 2
    trainer.run()
    assert trainer.scaler is first


@pytest.mark.parametrize(("bf16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_type_on_cuda_depends_on_the_gpu(bf16: bool, expected: torch.dtype) -> None:
    trainer = trainer_of(Heads(), [batch()], amp=True)
    trainer.state.device = torch.device("cuda")
    with mock.patch("torch.cuda.is_bf16_supported", return_value=bf16):
        assert trainer.amp_dtype is expected


def test_processes_exchange_gradients_only_when_they_step() -> None:
    class Counting(Heads):
        quiet = 0

        def no_sync(self) -> mock.MagicMock:
            self.quiet += 1
            return mock.MagicMock()

    network = Counting()
    trainer_of(network, [batch(seed=seed) for seed in range(5)], accumulation_steps=2).run()
    assert network.quiet == 2  # batches 1 and 3; 2, 4 and the epoch's last step


@pytest.mark.slow
def test_compiled_network_trains_like_the_eager_one() -> None:
    compiled, eager = Heads(), Heads()
    compiled.load_state_dict(eager.state_dict())
    trainer_of(compiled, [batch()], compile=True, compile_kwargs={"backend": "eager"}).run()
    trainer_of(eager, [batch()]).run()
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan")])
def test_bad_clip_norm_is_refused(clip_norm: float) -> None:
    with pytest.raises(ValueError, match="clip_norm must be a positive number or None"):
        trainer_of(Heads(), [batch()], clip_norm=clip_norm)
