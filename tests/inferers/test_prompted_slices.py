# SPDX-License-Identifier: Apache-2.0
"""What a user asked, what the network asked itself, and what the record says, slice by slice."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from monai_ext.data.slices import stack_view, upright
from monai_ext.inferers import PromptedSliceInferer, SliceWiseInferer
from monai_ext.transforms import PromptFromRequestd, TrueBoxd
from tests.inferers.prompted_toy import PromptedToy, box_of, slices_of

PLANES = ["axial", "coronal", "sagittal"]
REQUEST = {
    "foreground": [[1, 2, 1], [3, 4, 1], [0, 0, 4]],
    "background": [[2, 2, 2]],
    "roi": [1, 4, 2, 5, 2, 3],
}


def volume(shape: tuple[int, ...] = (5, 6, 7), request: dict[str, Any] | None = None) -> Tensor:
    """A batch of one volume, as MONAI Label makes it, with objects on some slices and nothing on others."""
    values = torch.rand(1, *shape) * (torch.rand(shape[-1]) > 0.3)
    item = {"image": MetaTensor(values), **(request or {})}
    return PromptFromRequestd(keys=["image"])(item)["image"][None]


def pictures(image: Tensor, plane: str) -> Tensor:
    """The slices (N, 1, H, W) of a batch of one, as the network sees them."""
    return upright(stack_view(torch.as_tensor(image)[0], plane), image.ndim == 5)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("cached_slices", [0, 32])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_volume_is_the_sum_of_its_slices(plane: str, cached_slices: int, batch_size: int) -> None:
    image = volume(request=REQUEST)
    settings: dict[str, Any] = {"plane": plane, "cached_slices": cached_slices}
    whole = PromptedSliceInferer(**settings, batch_size=batch_size)(image, PromptedToy())
    single = PromptedSliceInferer(**settings, batch_size=1)(image, PromptedToy())
    assert torch.equal(whole.as_tensor(), single.as_tensor())
    assert whole.meta["prompts"] == single.meta["prompts"]
    assert {entry["prompt"] for entry in slices_of(whole)} >= {"points", "box"}
    assert [entry["index"] for entry in slices_of(whole)] == list(range(len(pictures(image, plane))))


@pytest.mark.parametrize("plane", PLANES)
def test_without_prompts_it_is_the_plain_inferer_on_a_network_that_prompts_itself(plane: str) -> None:
    class Plain(PromptedToy):
        def forward(self, image: Tensor) -> Tensor:
            return self.segment(image).logits

    image = volume()
    found = PromptedSliceInferer(plane=plane, batch_size=3)(image, PromptedToy())
    assert torch.equal(found.as_tensor(), SliceWiseInferer(plane=plane, batch_size=2)(image, Plain()).as_tensor())
    boxes = [box_of(picture[0] > 0.5) for picture in pictures(image, plane)]
    assert slices_of(found) == [
        {"index": i, "prompt": "self", "box": box.tolist()}
        if box.isfinite().all()
        else {"index": i, "prompt": "null", "box": None}
        for i, box in enumerate(boxes)
    ]
    assert json.loads(found.meta["prompts"])["plane"] == plane
    assert json.loads(found.meta["prompts"])["prompt_source"] == "self"


def test_a_users_points_and_boxes_take_the_place_of_the_networks_own() -> None:
    image = volume(request={"foreground": [[1, 2, 3]], "background": [[1, 4, 3]], "roi": [0, 2, 1, 5, 5, 6]})
    found = PromptedSliceInferer()(image, PromptedToy())
    entries = slices_of(found)
    assert [entry["prompt"] for entry in entries[3:]] == ["points", entries[4]["prompt"], "box", "box"]
    assert entries[5]["box"] == [2, 0, 4, 4]  # of 5 columns and 6 rows, both turned round
    expected = torch.zeros(5, 6)
    expected[1, 2] = 1
    assert torch.equal(found[0, 0, :, :, 3].as_tensor(), expected)
    assert found[0, 0, :3, 1:6, 5:].all()
    assert found[0, 0, :, :, 5:].sum() == 2 * 15


def test_a_click_inside_a_box_is_decoded_with_the_box() -> None:
    image = volume(request={"foreground": [[1, 2, 3], [4, 5, 3]], "roi": [0, 2, 1, 5, 3, 3]})
    found = PromptedSliceInferer(only_prompted=True)(image, PromptedToy())
    points = [[3, 3, 1], [0, 0, 1]]
    assert slices_of(found) == [{"index": 3, "prompt": "points", "box": [2, 0, 4, 4], "points": points}]
    assert found.as_tensor().nonzero().tolist() == [[0, 0, 1, 2, 3]]  # the other click is outside of the box


@pytest.mark.parametrize("cached_slices", [0, 32])
def test_clicks_beside_the_object_correct_what_the_network_finds(cached_slices: int) -> None:
    values = torch.zeros(1, 5, 6, 3)
    values[0, 1:4, 2:5, 1] = 1

    class Erasing(PromptedToy):
        """Points are decoded within the given box, and a pixel of background is background."""

        def segment(self, image: Tensor, *args: Any, **kwargs: Any) -> Any:
            points = kwargs.pop("points", None)
            found = super().segment(image, *args, **{k: v for k, v in kwargs.items() if k != "point_labels"})
            for x, y in [] if points is None else points[0].long().tolist():
                found.logits[0, 0, y, x] = -1
            return found if points is None else found._replace(prompts=["points"])

    item = {"image": MetaTensor(values), "background": [[1, 2, 1], [0, 0, 2]]}
    image, network = PromptFromRequestd(keys=["image"])(item)["image"][None], Erasing()
    found = PromptedSliceInferer(cached_slices=cached_slices)(image, network)
    values[0, 1, 2, 1] = 0
    assert torch.equal(found[0].as_tensor(), values.to(torch.uint8))
    assert [entry["prompt"] for entry in slices_of(found)] == ["null", "points", "null"]
    assert slices_of(found)[1]["box"] == [1, 1, 3, 3]
    assert sum(network.encoded) == 3


def test_first_masks_are_shown_on_request() -> None:
    image = volume(request={"roi": [0, 4, 0, 5, 2, 2]})
    found = PromptedSliceInferer(prompt_source="null")(image, PromptedToy())
    assert [entry["prompt"] for entry in slices_of(found)] == ["null", "null", "box", *["null"] * 4]
    others = [0, 1, 3, 4, 5, 6]
    assert torch.equal(found.as_tensor()[..., others], (image > 0.5).to(torch.uint8).as_tensor()[..., others])


@pytest.mark.parametrize("plane", PLANES)
def test_true_boxes_are_those_of_the_label_on_each_slice(plane: str) -> None:
    label = (torch.rand(1, 5, 6, 7) > 0.9).to(torch.uint8) * 2
    label[..., 3], label[:, 2], label[:, :, 1] = 0, 0, 0
    item = TrueBoxd(keys=["label"])({"image": MetaTensor(torch.zeros(1, 5, 6, 7)), "label": MetaTensor(label)})
    found = PromptedSliceInferer(plane=plane, prompt_source="truth", batch_size=4)(item["image"][None], PromptedToy())
    boxes = [box_of(picture[0] > 0) for picture in pictures(label[None], plane)]
    assert slices_of(found) == [
        {"index": i, "prompt": "box", "box": box.tolist()}
        if box.isfinite().all()
        else {"index": i, "prompt": "null", "box": None}
        for i, box in enumerate(boxes)
    ]
    assert {entry["prompt"] for entry in slices_of(found)} == {"box", "null"}


def test_a_slice_without_a_true_box_is_segmented_as_without_truth() -> None:
    image = torch.rand(1, 5, 6, 7)
    item = TrueBoxd(keys=["label"])({"image": MetaTensor(image), "label": torch.zeros(1, 5, 6, 7)})
    truth = PromptedSliceInferer(prompt_source="truth")(item["image"][None], PromptedToy())
    own = PromptedSliceInferer()(item["image"][None], PromptedToy())
    assert torch.equal(truth.as_tensor(), own.as_tensor())
    assert slices_of(truth) == slices_of(own)


def test_a_picture_is_one_slice_with_its_own_columns_and_rows() -> None:
    item = {"image": MetaTensor(torch.rand(3, 9, 5)), "foreground": [[8, 1]], "box": [6, 0, 8, 2]}
    label = torch.zeros(1, 9, 5)
    label[0, 2:7, 1:4] = 1
    item = TrueBoxd(keys=["label"])(PromptFromRequestd(keys=["image"])({**item, "label": label}))
    found = PromptedSliceInferer(prompt_source="truth", plane="coronal")(item["image"][None], PromptedToy())
    assert slices_of(found) == [{"index": 0, "prompt": "points", "box": [6, 0, 8, 2], "points": [[8, 1, 1]]}]
    assert found.as_tensor().nonzero().tolist() == [[0, 0, 8, 1]]
    item["image"].meta["user_prompts"] = ""
    found = PromptedSliceInferer(prompt_source="truth")(item["image"][None], PromptedToy())
    assert slices_of(found) == [{"index": 0, "prompt": "box", "box": [2, 1, 6, 3]}]


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("shape", [(1, 6, 7), (5, 1, 7), (5, 6, 1), (1, 1, 1)])
def test_thin_volumes(plane: str, shape: tuple[int, int, int]) -> None:
    image = torch.ones(1, 1, *shape)
    found = PromptedSliceInferer(plane=plane)(MetaTensor(image), PromptedToy())
    assert torch.equal(found.as_tensor(), image.to(torch.uint8))
    height, width = pictures(image, plane).shape[2:]
    assert {tuple(entry["box"]) for entry in slices_of(found)} == {(0, 0, width - 1, height - 1)}  # on every border


def test_an_empty_volume_has_no_boxes() -> None:
    found = PromptedSliceInferer()(MetaTensor(torch.zeros(1, 1, 4, 5, 3)), PromptedToy())
    assert not found.any()
    assert slices_of(found) == [{"index": i, "prompt": "null", "box": None} for i in range(3)]


def test_a_volume_without_slices_is_refused() -> None:
    with pytest.raises(ValueError, match="no slices"):
        PromptedSliceInferer()(torch.zeros(1, 1, 4, 4, 0), PromptedToy())


def test_slices_without_prompts_keep_their_batches() -> None:
    network = PromptedToy()
    PromptedSliceInferer(batch_size=3, cached_slices=0)(volume(request={"foreground": [[1, 1, 2]]}), network)
    assert sorted(network.encoded) == [1, 3, 3]
    assert network.decoded == network.encoded


def test_equal_numbers_of_points_are_decoded_together_and_none_is_filled_up() -> None:
    clicks = [[1, 1, 0], [1, 1, 2], [1, 1, 4], [2, 2, 4], [1, 1, 6], [3, 3, 6]]
    network = PromptedToy()
    PromptedSliceInferer(cached_slices=0, only_prompted=True)(volume(request={"foreground": clicks}), network)
    assert sorted(network.decoded) == [2, 2]


@pytest.mark.parametrize("slices", [8, 16])
def test_logits_are_let_go(slices: int) -> None:
    alive: list[int] = []
    storages: list[StorageWeakRef] = []

    class Counting(PromptedToy):
        def segment(self, image: Tensor, *args: Any, **kwargs: Any) -> Any:
            alive.append(sum(not storage.expired() for storage in storages))
            found = super().segment(image, *args, **kwargs)
            logits = image.new_zeros(len(image), 50, *image.shape[2:])
            storages.append(StorageWeakRef(logits.untyped_storage()))
            return found._replace(logits=logits)

    labels = PromptedSliceInferer(batch_size=2)(MetaTensor(torch.rand(1, 1, 8, 8, slices)), Counting())
    assert len(alive) == slices // 2
    assert max(alive) == 0
    assert labels.untyped_storage().nbytes() == 8 * 8 * slices  # one byte a voxel


def test_every_slice_is_encoded_once() -> None:
    network = PromptedToy()
    PromptedSliceInferer(batch_size=2)(volume(request=REQUEST), network)
    assert sum(network.encoded) == 7


SLICE = {"foreground": [[1, 2, 4], [3, 3, 6]], "slice": 4}


@pytest.mark.parametrize(
    ("knob", "plane", "request_", "segmented"),
    [
        (None, "axial", SLICE, [4]),  # the client takes this slice only
        (None, "coronal", SLICE, [0, 1, 2, 3, 4, 5]),  # it lies across all slices of this plane
        (None, "axial", {"foreground": SLICE["foreground"]}, [0, 1, 2, 3, 4, 5, 6]),
        (False, "axial", SLICE, [0, 1, 2, 3, 4, 5, 6]),
        (True, "axial", SLICE, [4]),
        (True, "coronal", SLICE, [2, 3]),
        (True, "axial", {"foreground": SLICE["foreground"]}, [4, 6]),
        (True, "axial", {}, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_which_slices_are_segmented(
    knob: bool | None, plane: str, request_: dict[str, Any], segmented: list[int]
) -> None:
    image = volume(request=request_)
    found = PromptedSliceInferer(plane=plane, only_prompted=knob)(image, PromptedToy())
    assert [entry["index"] for entry in slices_of(found)] == segmented
    others = [index for index in range(len(pictures(image, plane))) if index not in segmented]
    assert not stack_view(found[0].as_tensor(), plane)[others].any()


def test_what_was_not_segmented_is_surely_background() -> None:
    class Classes(PromptedToy):
        def segment(self, image: Tensor, *args: Any, **kwargs: Any) -> Any:
            found = super().segment(image, *args, **kwargs)
            return found._replace(logits=torch.cat([-found.logits, found.logits], dim=1))

    settings: dict[str, Any] = {"only_prompted": True, "output": "probabilities"}
    found = PromptedSliceInferer(**settings)(volume(request=SLICE), Classes())
    torch.testing.assert_close(found.sum(1).as_tensor(), torch.ones(1, 5, 6, 7))
    assert (found[:, 0, :, :, :4] == 1).all()
    assert PromptedSliceInferer(**settings)(volume(request=SLICE), PromptedToy())[..., :4].sum() == 0


def test_neighbours_are_channels() -> None:
    image = volume(request=REQUEST)
    found = PromptedSliceInferer(slice_context=1)(image, PromptedToy())
    assert torch.equal(found.as_tensor(), PromptedSliceInferer()(image, PromptedToy()).as_tensor())


class Wrapped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network


@pytest.mark.parametrize("wrapper", [nn.DataParallel, Wrapped], ids=["parallel", "compiled"])
def test_wrapped_networks_are_unwrapped(wrapper: type[nn.Module]) -> None:
    image = volume(request=REQUEST)
    found = PromptedSliceInferer()(image, wrapper(PromptedToy()))
    assert torch.equal(found.as_tensor(), PromptedSliceInferer()(image, PromptedToy()).as_tensor())


def test_a_network_without_prompts_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`segment`, Conv2d has none; use monai_ext\.inferers\.SliceWiseInferer"):
        PromptedSliceInferer()(torch.rand(1, 1, 4, 4), nn.Conv2d(1, 1, 1))


def test_truth_without_boxes_names_the_transform() -> None:
    with pytest.raises(ValueError, match="TrueBoxd"):
        PromptedSliceInferer(prompt_source="truth")(volume(), PromptedToy())


def test_plain_tensors_give_plain_tensors() -> None:
    values = torch.rand(2, 1, 5, 6, 7)
    found = PromptedSliceInferer()(values, PromptedToy())
    assert type(found) is Tensor
    assert torch.equal(found, (values > 0.5).to(torch.uint8))


def test_metadata_is_kept_and_the_images_own_is_not_touched() -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 1, 4, 4, 4), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    found = PromptedSliceInferer()(image, PromptedToy())
    assert torch.equal(found.affine, affine)
    assert found.meta["filename_or_obj"] == "a.nii.gz"
    assert "prompts" not in image.meta


def test_no_gradient_is_recorded() -> None:
    image = volume(request=REQUEST)
    assert not PromptedSliceInferer(output="probabilities")(image, PromptedToy()).requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"prompt_source": "user"}, "self, null, truth"), ({"cached_slices": -1}, "cached_slices"),
     ({"plane": "oblique"}, "plane")],
)  # fmt: skip
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptedSliceInferer(**settings)


class ChoosingFound(NamedTuple):
    logits: Tensor
    boxes: Tensor
    prompts: list[str]
    ious: Tensor
    places: list[list[tuple[float, float]]]


class Choosing(nn.Module):
    """Takes a point by itself on slices that are bright, and says how sure it is."""

    def segment(self, image: Tensor, first_only: bool = False, **_: Any) -> ChoosingFound:
        bright = [float(one.mean()) > 0.5 for one in image]
        return ChoosingFound(
            image[:, :1] - 0.5,
            torch.full((len(image), 4), torch.nan),
            ["grid" if found else "none" for found in bright],
            torch.tensor([[0.8123456] if found else [0.25] for found in bright]),
            [[(1.25, 2.0)] if found else [] for found in bright],
        )


def test_what_a_network_chose_and_expects_is_recorded() -> None:
    volume = torch.stack([torch.zeros(4, 5), torch.ones(4, 5)], dim=-1)[None, None]
    first, second = slices_of(PromptedSliceInferer()(MetaTensor(volume[0])[None], Choosing()))
    assert first == {"index": 0, "prompt": "none", "box": None, "predicted_iou": [0.25]}
    assert second == {
        "index": 1, "prompt": "grid", "box": None, "points": [[1.25, 2.0, 1]], "predicted_iou": [0.8123]
    }  # fmt: skip


def test_samples_of_dropout_are_probabilities_of_both_classes() -> None:
    network, image = PromptedToy(), volume(request=REQUEST)
    network.dropout = nn.Dropout(0.5)
    sample = PromptedSliceInferer()(image, network)
    found = PromptedSliceInferer(output="probabilities")(image, network.eval())
    torch.testing.assert_close(sample.as_tensor(), torch.cat([1 - found, found], dim=1).as_tensor())
