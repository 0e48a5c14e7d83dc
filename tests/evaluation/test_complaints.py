import json

import pytest
import torch

import kedge
from kedge.data import TensorSet
from kedge.data.origin import Origin
from kedge.evaluation import evaluate


def plain(data, outputs: int = 6) -> kedge.PlainModel:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, outputs))
    return kedge.plain(network, example=data.images[:2].float() / 255)


def test_other_classes_show_both_lists(data):
    model = plain(data)
    model.class_names = ["cat", "dog", "owl", "pig", "ram", "zebu"]
    with pytest.raises(ValueError, match="different classes") as caught:
        evaluate({"mine": model}, data)
    for word in ("'mine'", "'beasts'", "zebu", "yak"):
        assert word in str(caught.value)


def test_other_order_says_how_to_put_it_right(data):
    model = plain(data)
    model.class_names = list(reversed(data.class_names))
    with pytest.raises(ValueError, match="another order") as caught:
        evaluate(model, data)
    assert "only_classes" in str(caught.value)
    evaluate(model, data.only_classes(model.class_names), shift=())


def test_a_model_of_some_of_the_classes(data):
    model = plain(data, 2)
    model.class_names = ["dog", "cat"]
    with pytest.raises(ValueError, match="only_classes"):
        evaluate(model, data)


def test_long_class_lists_are_cut(data):
    model = plain(data)
    many = [f"class{i}" for i in range(1000)]
    model.class_names = many
    with pytest.raises(ValueError, match="1000 in all") as caught:
        evaluate(model, data)
    assert len(str(caught.value)) < 1000


def test_wrong_width(data):
    with pytest.raises(ValueError, match="returns 4 logits, but the data has 6 classes"):
        evaluate(plain(data, 4), data)
    with pytest.raises(ValueError, match="returns 3 logits, but the data has 6 classes"):
        evaluate(lambda x: x.flatten(1)[:, :3], data, shift=())


def test_logits_that_are_not_finite(data):
    def broken(images: torch.Tensor) -> torch.Tensor:
        logits = images.flatten(1)[:, :6].clone()
        logits[0, 2] = float("nan")
        return logits

    with pytest.raises(ValueError, match="'bad' gave logits that are not finite for 1 of 8 images"):
        evaluate({"bad": broken}, data, shift=(), batch_size=30)


def test_a_class_excluded_by_minus_infinity_is_fine(data):
    def masked(images: torch.Tensor) -> torch.Tensor:
        logits = images.flatten(1)[:, :6].clone()
        logits[:, 5] = float("-inf")
        return logits

    evaluate(masked, data, shift=(), ood=None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shift": ["gausian_noise"]}, "did you mean gaussian_noise"),
        ({"severities": (0,)}, "1 to 5, got 0"),
        ({"severities": (6,)}, "1 to 5, got 6"),
        ({"limit": 0}, "limit must be 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"severities": ()}, "severities is empty"),
        ({"risk": 5}, "risk must be between 0 and 1, got 5"),
        ({"near": ["static"]}, "no out-of-distribution set 'static'"),
        ({"groups": {"a": ["model", "model"]}}, "'model' is in two groups"),
        ({"groups": {"a": ["other"]}}, "names 'other', but the models are model"),
    ],
)
def test_bad_settings(network, data, arguments, words):
    with pytest.raises(ValueError, match=words):
        evaluate(network, data, **arguments)


def test_logits_that_break_under_a_corruption_are_a_marked_cell(data):
    def fragile(images: torch.Tensor) -> torch.Tensor:
        logits = images.flatten(1)[:, :6].clone()
        # Contrast 5 leaves little range: this model divides by it.
        logits[images.flatten(1).std(dim=1) < 0.05] = float("nan")
        return logits

    results = evaluate(fragile, data, shift=["contrast"], severities=(1, 5), resamples=20)
    shift = results["models"]["model"]["shift"]
    (error,) = results["models"]["model"]["errors"]
    assert error["part"] == "contrast 5"
    assert "not finite for" in error["message"]
    assert [row["severity"] for row in shift["conditions"]] == [1]
    assert shift["mean"]["accuracy"]["value"] is None
    assert shift["by_severity"][0]["accuracy"]["value"] is not None
    assert shift["by_severity"][1]["accuracy"]["value"] is None
    json.dumps(results, allow_nan=False)


def test_the_same_images_under_another_name_are_not_outside(network, data):
    again = TensorSet(data.images, torch.zeros(90, dtype=torch.long), ["thing"], name="elsewhere")
    with pytest.raises(ValueError, match="is the test set itself"):
        evaluate(network, data, shift=(), ood=again)


def test_training_images_that_are_the_test_images(data):
    model = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6)), example=(3, 8, 8))
    far = TensorSet(255 - data.images, data.labels, data.class_names, name="negatives")
    with pytest.raises(ValueError, match="are the test images: scores would be fitted"):
        evaluate(model, data, shift=(), ood=far, train=data)


def test_sets_that_cannot_be_used(network, data, noise):
    with pytest.raises(ValueError, match="is the test set itself"):
        evaluate(network, data, shift=(), ood={"same": data})
    with pytest.raises(ValueError, match="two out-of-distribution sets are called 'static'"):
        evaluate(network, data, shift=(), ood=[noise, noise])
    with pytest.raises(ValueError, match="is empty"):
        evaluate(network, data.subset([]), shift=())
    unlabelled = TensorSet(data.images, torch.full((90,), -1), data.class_names, name="bare")
    with pytest.raises(ValueError, match="labels go from -1 to -1"):
        evaluate(network, unlabelled, shift=())


def test_models_that_cannot_be_evaluated(data):
    with pytest.raises(ValueError, match="no model"):
        evaluate({}, data)
    with pytest.raises(TypeError, match="'m' is a str"):
        evaluate({"m": "resnet18"}, data)
    regressor = kedge.plain(torch.nn.Linear(4, 1), example=(4,), task="regression")
    with pytest.raises(ValueError, match="regression"):
        evaluate(regressor, data)
    vectors = kedge.plain(torch.nn.Linear(192, 6), example=(192,))
    with pytest.raises(ValueError, match="vectors"):
        evaluate(vectors, data)


def test_a_far_set_that_failed_leaves_no_mean(data, noise):
    def fragile(images: torch.Tensor) -> torch.Tensor:
        logits = images.flatten(1)[:, :6].clone()
        logits[images.flatten(1).mean(dim=1) < 0.1] = float("nan")
        return logits

    dark = TensorSet(noise.images // 20, noise.labels, ["dark"], name="dark")
    near = TensorSet(255 - data.images, data.labels, data.class_names, name="negatives")
    results = evaluate(fragile, data, shift=(), ood=[noise, dark, near], near=["negatives"], resamples=0)
    model = results["models"]["model"]
    assert [e["part"] for e in model["errors"]] == ["ood dark"]
    assert set(model["ood"]) == {"static", "negatives"}
    assert set(model["ood_groups"]) == {"near"}


def test_training_images_in_another_order_are_still_the_test_images(data):
    model = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6)), example=(3, 8, 8))
    far = TensorSet(255 - data.images, data.labels, data.class_names, name="negatives")
    with pytest.raises(ValueError, match="are the test images"):
        evaluate(model, data, shift=(), ood=far, train=data.subset(range(89, -1, -1)))


def test_two_scores_of_one_name(network, data):
    from kedge.scores import MSP

    with pytest.raises(ValueError, match="two scores are called 'msp'"):
        evaluate(network, data, shift=(), scores=[MSP(), MSP()])


def test_equalised_images_are_compared_with_equalised_ones(network, data, noise):
    """The joint view and the scores take the familiar images in the form of the others, or not at all."""
    far = TensorSet(noise.images, noise.labels, ["noise"], name="static")
    far.origin = Origin({"JPEG": 40}, ((8, 8), (8, 8)), 30)
    data.origin = Origin({"PNG": 90}, ((8, 8), (8, 8)))
    quick = {"shift": (), "ood": {"far": far}, "resamples": 0}
    plain, same = (evaluate(network, data, **quick, equalise=e)["models"]["model"] for e in (False, True))
    assert plain["clean"] == same["clean"]
    assert plain["scores"]["msp"]["inside"] != same["scores"]["msp"]["inside"]
    inside = (1 - plain["selective"]["joint"]["far"]["aurc"], 1 - same["selective"]["joint"]["far"]["aurc"])
    assert inside[0] != inside[1]


def test_a_rank_is_that_of_the_logits_not_of_probabilities_that_underflow(data):
    def steep(images: torch.Tensor) -> torch.Tensor:
        logits = torch.tensor([0.0, -900, -900, -900, -900, -200]).expand(len(images), 6).clone()
        return logits + images.flatten(1)[:, :1] * 0

    last = TensorSet(data.images, torch.full((90,), 5), data.class_names, name="last")
    assert evaluate(steep, last, shift=(), resamples=0)["models"]["model"]["clean"]["top5"]["value"] == 1.0


def test_a_callable_that_fails_is_named(data):
    def crash(images):
        raise RuntimeError("boom")

    with pytest.raises(ValueError, match=r"model 'mine' failed on 8 images of shape .*RuntimeError: boom"):
        evaluate({"mine": crash}, data, shift=())
    with pytest.raises(ValueError, match=r"model 'mine': .*as a torch tensor, but it returned ndarray"):
        evaluate({"mine": lambda x: x.flatten(1)[:, :6].numpy()}, data, shift=())


def test_probabilities_in_place_of_logits_are_noticed(data):
    said: list[str] = []
    evaluate(lambda x: x.flatten(1)[:, :6].softmax(dim=1), data, shift=(), resamples=0, notice=said.append)
    assert any("looks like probabilities" in words for words in said)
