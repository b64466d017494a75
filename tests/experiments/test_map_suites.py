"""VOC and MIT1003 on hand-made trees, with a model whose map is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from torchmetrics.classification import BinaryJaccardIndex, BinaryStatScores

from experiments.evaluation.measures import saliency
from experiments.evaluation.measures.maps import attention_map, min_max
from experiments.evaluation.run import Evaluation, Gaze, Maps, Segmentation, evaluate_on
from experiments.evaluation.suites import SUITES, Subject
from experiments.evaluation.suites.voc import confusion
from tests.experiments.trees import DATA, Bright


def _subject(root: Path) -> Subject:
    return Subject(Bright(), DATA, ["a"], root=root)


def _found(root: Path, on: str, **options: Any) -> dict[str, dict[str, Any]]:
    how = Evaluation(on=(on,), progress=False, **options)
    return {record["metric"]: record for record in evaluate_on(_subject(root), how)}


def _white(rows: slice, columns: slice, size: int = 8) -> np.ndarray:
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    pixels[rows, columns] = 255
    return pixels


def _voc(root: Path, images: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """Write images and masks where VOC has them. The images are PNG, because JPEG would change white and black."""
    voc = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(images) + "\n")
    for name, (pixels, mask) in images.items():
        Image.fromarray(pixels).save(voc / "JPEGImages" / f"{name}.jpg", format="png")
        drawn = Image.fromarray(mask).convert("P")
        drawn.putdata(mask.ravel().tolist())
        drawn.save(voc / "SegmentationClass" / f"{name}.png")
    return voc


def test_the_map_is_that_of_the_inspection() -> None:
    images = torch.from_numpy(_white(slice(0, 4), slice(2, 4))).permute(2, 0, 1)[None] / 255
    expected = torch.zeros(4, 4)
    expected[:2, 1] = 1
    assert torch.allclose(min_max(attention_map(Bright(), images))[0], expected, atol=1e-5)
    assert torch.equal(min_max(torch.full((1, 3, 3), 7.0)), torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match="layer is 'no'; one of attn is wanted"):
        attention_map(Bright(), images, "no")
    with pytest.raises(ValueError, match="none of this package's attention layers"):
        attention_map(torch.nn.Flatten(), images)


def test_voc_by_hand(tmp_path: Path) -> None:
    """Three images, and scores that were computed by hand.

    In image "a" the map is 1 on the 4 x 4 pixels at the upper left. The object is the upper half, and its second row is
    void. In image "b" the white pixels and the object are the same 16 pixels. Image "c" is void throughout.
    """
    masks = [np.zeros((8, 8), dtype=np.uint8) for _ in range(3)]
    masks[0][:4], masks[0][1] = 5, 255
    masks[1][4:, 4:] = 20
    masks[2][:] = 255
    white = _white(slice(0, 4), slice(0, 4))
    images = {"a": (white, masks[0]), "b": (_white(slice(4, 8), slice(4, 8)), masks[1]), "c": (white, masks[2])}
    _voc(tmp_path, images)
    for batch_size in (1, 3):
        found = _found(tmp_path, "voc-segmentation", batch_size=batch_size)
        # Bilinear upsampling gives .25 next to the white pixels, which is below .3, and .5625 at the corner inside.
        tp, fn, pixels = 3 * 4 + 16, 3 * 4, 56 + 64
        assert found["iou"]["value"] == pytest.approx(tp / (tp + fn))
        assert (found["iou"]["threshold"], found["iou"]["images"]) == (0.3, 3)
        assert found["false_positives"]["value"] == 0
        assert found["false_negatives"]["value"] == pytest.approx(fn / pixels)
        assert found["iou_mean_over_images"]["value"] == pytest.approx((0.5 + 1) / 2)
    # The threshold .2 lies between .25 and the .1875 beside a corner. In "a" three pixels below the white are wrong.
    # Of the three to its right one is void, and two are right. In "b" three above and three to the left are wrong.
    found = _found(tmp_path, "voc-segmentation", segmentation=Segmentation(0.2))
    assert found["false_positives"]["value"] == pytest.approx((3 + 6) / pixels)
    assert found["false_negatives"]["value"] == pytest.approx((fn - 2) / pixels)
    # The threshold .6 loses the corner inside, which is row 3, column 3 in "a", and row 4, column 4 in "b".
    found = _found(tmp_path, "voc-segmentation", segmentation=Segmentation(0.6))
    assert found["false_negatives"]["value"] == pytest.approx((fn + 2) / pixels)
    # The curve over thresholds goes into a figure.
    records = list(evaluate_on(_subject(tmp_path), Evaluation(on=("voc-segmentation",), progress=False)))
    curve = {record["threshold"]: record["value"] for record in records if record["metric"] == "curve_iou"}
    assert len(curve) == 20
    assert curve[0.3] == found_at(records, "iou")
    assert curve[0.6] == pytest.approx((tp - 2) / (tp + fn))
    SUITES["voc-segmentation"].report(records, tmp_path)
    assert (tmp_path / "voc-segmentation.png").stat().st_size > 5000


def found_at(records: list[dict[str, Any]], metric: str) -> float:
    (value,) = [record["value"] for record in records if record["metric"] == metric]
    return value


def test_a_constant_map_and_all_void_masks(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:2] = 1
    black = _white(slice(0, 0), slice(0, 0))
    _voc(tmp_path / "constant", {"a": (black, mask)})
    found = _found(tmp_path / "constant", "voc-segmentation")
    assert [found[name]["value"] for name in ("iou", "false_positives", "false_negatives")] == [0, 0, 0.25]
    empty = {"a": (_white(slice(0, 4), slice(0, 4)), np.full((8, 8), 255, dtype=np.uint8))}
    _voc(tmp_path / "void", empty)
    with pytest.raises(ValueError, match="every pixel of every mask is void"):
        _found(tmp_path / "void", "voc-segmentation")


def test_voc_that_is_broken(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    voc = _voc(tmp_path, {"a": (_white(slice(0, 4), slice(0, 4)), mask)})
    drawn = voc / "SegmentationClass" / "a.png"
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(drawn)
    with pytest.raises(ValueError, match=r"a\.png has mode RGB"):
        _found(tmp_path, "voc-segmentation")
    Image.fromarray(np.zeros((4, 8), dtype=np.uint8)).save(drawn)
    with pytest.raises(ValueError, match=r"a\.png has shape \(4, 8\), unlike the \(8, 8\)"):
        _found(tmp_path, "voc-segmentation")
    (voc / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.jpg is no image"):
        _found(tmp_path, "voc-segmentation")
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"val\.txt is missing"):
        _found(tmp_path, "voc-segmentation")
    with pytest.raises(ValueError, match=r"segmentation\.threshold is 1"):
        Evaluation(segmentation=Segmentation(1))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99))
def test_torchmetrics_agrees_on_segmentation(seed: int, threshold: float) -> None:
    generator = np.random.default_rng(seed)
    scaled = min_max(torch.tensor(generator.normal(size=(6, 7))))
    mask = generator.choice(np.array([0, 3, 20, 255], dtype=np.uint8), (6, 7))
    (tp,), (fp,), (fn,) = confusion(scaled.numpy(), mask, [threshold])
    truth = torch.tensor(np.where(mask == 255, -1, mask > 0).astype(np.int64))
    union = tp + fp + fn
    jaccard = BinaryJaccardIndex(threshold, ignore_index=-1)(scaled, truth)
    assert (tp / union if union else 0) == pytest.approx(float(jaccard), abs=1e-6)
    stats = BinaryStatScores(threshold, ignore_index=-1)(scaled, truth).tolist()
    assert [tp, fp, fn] == [stats[0], stats[1], stats[3]]


def _gaze(*places: tuple[float, float]) -> np.ndarray:
    """Samples of a gaze that stays long at each of the places (x, y)."""
    return np.concatenate([np.tile(place, (40, 1)) for place in places]).astype(float)


def _mit1003(root: Path, gaze: dict[str, dict[str, np.ndarray]]) -> Path:
    """Write images of 8 x 8 pixels with a white upper left quarter, and the gaze of each subject for each image."""
    (root / "MIT1003" / "ALLSTIMULI").mkdir(parents=True)
    for name, subjects in gaze.items():
        image = Image.fromarray(_white(slice(0, 4), slice(0, 4)))
        image.save(root / "MIT1003" / "ALLSTIMULI" / f"{name}.jpeg", format="png")
        for subject, path in subjects.items():
            folder = root / "MIT1003" / "DATA" / subject
            folder.mkdir(parents=True, exist_ok=True)
            savemat(folder / f"{name}.mat", {name: {"imgName": f"{name}.jpeg", "DATA": {"eyeData": path}}})
    return root / "MIT1003"


def test_mit1003_by_hand(tmp_path: Path) -> None:
    """The first fixation of a subject does not count, and neither do those off the image. Coordinates start at 1."""
    subjects = {"hp": _gaze((4, 4), (1, 2), (500, 3)), "ya": _gaze((2, 2), (8, 8), (1.7, 2.2)), "zb": _gaze((1, 1))}
    root = _mit1003(tmp_path, {"one": subjects, "nobody": {"hp": _gaze((1, 1))}})
    quarter = _map()
    at = [quarter[1, 0], quarter[7, 7], quarter[1, 0]]
    options = {"gaze": Gaze(pixels_per_degree=2.0)}
    found = _found(tmp_path, "mit1003", **options)
    nss = (np.mean(at) - quarter.mean()) / quarter.std()
    assert found["nss"]["value"] == pytest.approx(nss, rel=1e-5)
    counts = {name: found["nss"][name] for name in ("images", "fixations", "images_without_fixations", "missing_files")}
    assert counts == {"images": 1, "fixations": 3, "images_without_fixations": 1, "missing_files": 2}
    # The area compares each of the two fixated pixels with all the others. Equal values count half.
    others = np.delete(quarter.ravel(), [8, 63])
    areas = [np.mean(others < value) + np.mean(others == value) / 2 for value in (quarter[1, 0], quarter[7, 7])]
    assert found["auc_judd"]["value"] == pytest.approx(np.mean(areas))
    assert 0.2 < found["cc"]["value"] < 1
    # Nobody fixates another image, so nothing can be compared with the centre bias.
    assert set(found) == {"nss", "auc_judd", "cc", "sim", "kl"}
    for batch_size in (1, 2):
        assert _found(tmp_path, "mit1003", batch_size=batch_size, workers=batch_size, **options) == found
    (root / "DATA" / "ya" / "one.mat").unlink()
    found = _found(tmp_path, "mit1003", **options)
    assert (found["nss"]["fixations"], found["nss"]["missing_files"]) == (1, 3)
    assert found["nss"]["value"] == pytest.approx((quarter[1, 0] - quarter.mean()) / quarter.std(), rel=1e-5)


def test_mit1003_compares_with_the_fixations_on_other_images(tmp_path: Path) -> None:
    """The images "a" and "b" have fixations (row, column) of their own, and all of the other's are the centre bias."""
    places = {"a": [(1, 1), (2, 3)], "b": [(6, 6), (1, 1), (7, 5)]}
    gaze = {
        name: {"hp": _gaze((4, 4), *((column + 1, row + 1) for row, column in own))} for name, own in places.items()
    }
    root = _mit1003(tmp_path, gaze)
    found = _found(tmp_path, "mit1003", gaze=Gaze(pixels_per_degree=2.0))
    fixations = {name: np.array(own) for name, own in places.items()}
    expected: dict[str, list[float]] = {"auc_shuffled": [], "information_gain": [], "centre_nss": [], "centre_sim": []}
    for own, others in (("a", "b"), ("b", "a")):
        centre = saliency.density(fixations[others], (8, 8), 2.0)
        expected["auc_shuffled"].append(saliency.auc_shuffled(_map(), fixations[own], fixations[others]))
        expected["information_gain"].append(saliency.information_gain(_map(), fixations[own], centre))
        expected["centre_nss"].append(saliency.nss(centre, fixations[own]))
        expected["centre_sim"].append(saliency.sim(centre, saliency.density(fixations[own], (8, 8), 2.0)))
    for name, values in expected.items():
        assert found[name]["value"] == pytest.approx(np.mean(values), rel=1e-4, abs=1e-4), name
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    # What is measured on one image depends on the gaze at the others.
    how = Evaluation(on=("mit1003",), progress=False)
    before = SUITES["mit1003"](_subject(tmp_path), how).options()
    (root / "DATA" / "hp" / "b.mat").unlink()
    assert SUITES["mit1003"](_subject(tmp_path), how).options() != before


def write_mit1003(root: Path) -> None:
    """The gaze of two subjects on two images."""
    gaze = {"hp": _gaze((4, 4), (1, 2)), "ya": _gaze((2, 2), (8, 8), (2, 3))}
    _mit1003(root, {"one": gaze, "two": gaze})


def _map() -> np.ndarray:
    """The map of 4 x 4 tokens with a white quarter, upsampled bilinearly, from its profile along rows and columns."""
    line = np.array([1, 1, 1, 0.75, 0.25, 0, 0, 0])
    return np.outer(line, line)


def test_mit1003_that_is_broken(tmp_path: Path) -> None:
    root = _mit1003(tmp_path, {"one": {"hp": _gaze((1, 1))}})
    with pytest.raises(ValueError, match="no image of mit1003 has a fixation"):
        _found(tmp_path, "mit1003")
    file = root / "DATA" / "hp" / "one.mat"
    savemat(file, {"other": {"x": 1}})
    with pytest.raises(ValueError, match=r"one\.mat has no DATA\.eyeData"):
        _found(tmp_path, "mit1003")
    file.write_bytes(b"not a mat file")
    with pytest.raises(ValueError, match=r"one\.mat cannot be read"):
        _found(tmp_path, "mit1003")
    with pytest.raises(ValueError, match="layer is 'no'"):
        _found(tmp_path, "mit1003", maps=Maps("no"))
    (root / "ALLSTIMULI" / "one.jpeg").unlink()
    with pytest.raises(ValueError, match="has no ALLSTIMULI"):
        _found(tmp_path, "mit1003")
    with pytest.raises(ValueError, match=r"gaze\.speed is 0"):
        Evaluation(gaze=Gaze(speed=0))
