import copy
import json
import math
from fractions import Fraction

import pytest
import torch
from torch import nn

import kedge
from kedge.data import TensorSet
from kedge.deploy import export, load_onnx, quantise
from kedge.metrics import prediction_difference

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def trained():
    """A small convolutional network of the digits, with a temperature and a reject rule."""
    torch.manual_seed(0)
    digits = kedge.data.load("digits", "train")
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    model = kedge.plain(network, mean=[0.3], std=[0.35], example=(1, 8, 8)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for start in range(0, 4 * 64 * 16, 64):
        batch = torch.arange(start, start + 64) % len(digits)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(digits.images[batch] / 255), digits.labels[batch]).backward()
        optimizer.step()
    model.class_names = digits.class_names
    model.steps = {"temperature": {"value": 1.5}}
    model.reject = {"score": "confidence", "threshold": 0.5, "coverage": 0.95}
    return model.eval()


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    digits, test = kedge.data.load("digits", "train"), kedge.data.load("digits", "test")
    done = export(trained, folder / "float.onnx")
    return folder, quantise(done.path, folder / "small.onnx", digits.subset(range(128)), test), test


def test_eight_bits_answer_almost_as_the_float_file(trained, files):
    folder, done, test = files
    small, whole = load_onnx(folder / "small.onnx"), load_onnx(folder / "float.onnx")
    pixels = test.images / 255
    with torch.no_grad():
        logits, others = whole(pixels), small(pixels)
    assert not torch.equal(logits, others)
    p = logits.double().softmax(1)
    kl = (p * (p.log() - others.double().softmax(1).log())).sum(1).mean()
    assert done.held_out.difference == pytest.approx(float(kl), rel=1e-6)
    assert done.held_out.difference < 0.01
    assert done.held_out.same == int((logits.argmax(1) == others.argmax(1)).sum())
    assert done.held_out.same >= 0.98 * len(test)
    right = [float((each.argmax(1) == test.labels).double().mean()) for each in (logits, others)]
    assert done.held_out.accuracy == pytest.approx(right)
    answered = [float((each.softmax(1).amax(1) >= 0.5).double().mean()) for each in (logits, others)]
    assert done.held_out.answered == pytest.approx(answered)
    ece = [float(kedge.metrics.calibration_error(each.softmax(1), test.labels)) for each in (logits, others)]
    assert done.held_out.ece == pytest.approx(ece)
    assert (done.calibration.images, done.held_out.images) == (128, len(test))
    for size in (1, 3):  # any batch
        torch.testing.assert_close(small(pixels[:size]), others[:size], atol=0.2, rtol=0)


def test_the_file_is_eight_bit_and_says_so(files):
    folder, done, _ = files
    graph = onnx.load(str(done.path))
    onnx.checker.check_model(graph)
    large = [each for each in graph.graph.initializer if len(each.dims) >= 2 and max(each.dims) > 3]
    assert {onnx.TensorProto.DataType.Name(each.data_type) for each in large} == {"INT8"}
    weights = [onnx.numpy_helper.to_array(each) for each in graph.graph.initializer if len(each.dims) == 4]
    assert precision_bits(done) == 7
    assert max(abs(int(w.min())) for w in weights) <= 64  # seven bits of eight: no sum is clipped anywhere
    (card,) = [json.loads(entry.value) for entry in graph.metadata_props]
    precision = card["precision"]
    assert (precision["weights"], precision["activations"]) == ("int8", "uint8")
    assert precision["calibration_images"] == 128
    assert precision["prediction_difference"] == done.held_out.difference
    small = load_onnx(done.path)
    assert small.precision == precision
    assert small.describe_steps() == ["temperature 1.5", "8-bit weights and activations"]
    assert load_onnx(folder / "float.onnx").precision is None
    assert small.class_names == [str(i) for i in range(10)]
    assert small.reject["threshold"] == 0.5
    assert str(folder).encode() not in done.path.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["float.onnx", "small.onnx"]
    assert done.size == ((folder / "float.onnx").stat().st_size, done.path.stat().st_size)
    assert "the same label on" in str(done)


def precision_bits(done):
    return load_onnx(done.path).precision["weight_bits"]


def test_all_eight_bits_where_asked_for(files, tmp_path):
    folder, _, test = files
    digits = kedge.data.load("digits", "train").subset(range(128))
    full = quantise(folder / "float.onnx", tmp_path / "full.onnx", digits, test, full_range=True)
    weights = [onnx.numpy_helper.to_array(w) for w in onnx.load(str(full.path)).graph.initializer if len(w.dims) == 4]
    assert max(int(w.max()) for w in weights) == 127
    assert precision_bits(full) == 8


def test_the_same_again_is_the_same_file(files, tmp_path):
    folder, done, test = files
    digits = kedge.data.load("digits", "train").subset(range(128))
    again = quantise(folder / "float.onnx", tmp_path / "small.onnx", digits, test)
    assert again.path.read_bytes() == done.path.read_bytes()


def test_a_difference_beyond_the_bound_leaves_no_file(files, tmp_path):
    folder, done, test = files
    digits = kedge.data.load("digits", "train").subset(range(128))
    with pytest.raises(RuntimeError, match=rf"on {len(test)} held-out images the prediction difference is .* allowed"):
        quantise(folder / "float.onnx", tmp_path / "x.onnx", digits, test, bound=done.held_out.difference / 2)
    assert not list(tmp_path.iterdir())


def test_ranges_of_other_images_are_seen(files, tmp_path):
    """Calibrated on almost black images, held-out digits are cut off; beside the calibration images that shows."""
    folder, done, test = files
    digits = kedge.data.load("digits", "train").subset(range(64))
    black = TensorSet(digits.images // 40, digits.labels, digits.class_names)
    wrong = quantise(folder / "float.onnx", tmp_path / "x.onnx", black, test, bound=100)
    assert wrong.held_out.difference > 50 * wrong.calibration.difference
    assert "calibrate on more images" in wrong.doubt
    assert done.doubt == ""


def test_what_cannot_be_eight_bit_is_refused(files, trained, tmp_path):
    folder, done, test = files
    digits = kedge.data.load("digits", "train")
    few, some = digits.subset(range(15)), digits.subset(range(40))
    where = folder / "float.onnx"
    rgb = TensorSet(test.images.expand(-1, 3, -1, -1), test.labels, test.class_names)
    with pytest.raises(ValueError, match="15 images to calibrate on are too few to go by: it takes 16"):
        quantise(where, tmp_path / "x.onnx", few, test)
    with pytest.raises(ValueError, match="3 images held out are too few"):
        quantise(where, tmp_path / "x.onnx", some, test.subset(range(3)))
    with pytest.raises(ValueError, match="20 held-out images are among those to calibrate on"):
        quantise(where, tmp_path / "x.onnx", some, digits.subset(range(20, 60)))
    with pytest.raises(ValueError, match="40 held-out images are among"):
        quantise(where, tmp_path / "x.onnx", some, some)
    with pytest.raises(ValueError, match=r"images held out are \[3, 8, 8\], the model takes \[1, 8, 8\]"):
        quantise(where, tmp_path / "x.onnx", some, rgb)
    with pytest.raises(ValueError, match=r"8-bit weights already"):
        quantise(done.path, tmp_path / "x.onnx", some, test)
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        quantise(where, tmp_path / "x.pt2", some, test)
    with pytest.raises(ValueError, match="above 0, in nats, got 0"):
        quantise(where, tmp_path / "x.onnx", some, test, bound=0)
    regression = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), example=(1, 8, 8), task="regression")
    export(regression.eval(), tmp_path / "r.onnx")
    with pytest.raises(ValueError, match=r"r\.onnx is a regression"):
        quantise(tmp_path / "r.onnx", tmp_path / "x.onnx", some, test)


def test_a_card_that_says_something_else_of_its_precision_is_refused(files, tmp_path):
    _, done, _ = files
    model = onnx.load(str(done.path))
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "precision": "int4"})
    onnx.save(model, str(tmp_path / "x.onnx"))
    with pytest.raises(ValueError, match=r"precision cannot be \"int4\""):
        load_onnx(tmp_path / "x.onnx")


def test_prediction_sets_are_of_the_eight_bit_answers(trained, tmp_path):
    """Their threshold and what looks unfamiliar were of the float file, whose logits are others."""
    model, val = copy.deepcopy(trained), kedge.data.load("digits", "test")
    kedge.training.calibrate(model, val, "prediction_sets", coverage=0.9, sets="lac")
    done = export(model, tmp_path / "float.onnx")
    ranges = kedge.data.load("digits", "train").subset(range(128))
    written = quantise(done.path, tmp_path / "small.onnx", ranges, val)
    assert "set anew on the 8-bit answers" in str(written)
    small, whole = load_onnx(written.path), load_onnx(done.path)
    with torch.no_grad():
        probs = small(val.images / 255).double().softmax(1)
    scores = sorted((1 - probs.gather(1, val.labels[:, None])[:, 0]).tolist())
    (threshold,) = small.inside["prediction_sets"]["value"]["thresholds"]
    assert threshold == scores[math.ceil((len(val) + 1) * Fraction("0.9")) - 1]
    assert threshold != whole.inside["prediction_sets"]["value"]["thresholds"][0]
    accuracy = float((probs.argmax(1) == val.labels).double().mean())
    assert small.inside["prediction_sets"]["value"]["usual"]["accuracy"] == pytest.approx(accuracy)
    few = quantise(done.path, tmp_path / "few.onnx", ranges, val.subset(range(20)))
    assert "set anew on the 8-bit answers to the 20 held-out images" in few.sets
    unlike = kedge.data.TensorSet(val.images, val.labels, [f"x{i}" for i in range(10)])
    other = quantise(done.path, tmp_path / "other.onnx", ranges, unlike)
    assert "left out" in other.sets
    assert "other classes" in other.sets
    with pytest.raises(ValueError, match="no prediction sets"):
        load_onnx(other.path).set_rule(0.9)


def test_prediction_difference():
    """KL((.7, .3) ‖ (.6, .4)) = .7 ln(.7/.6) + .3 ln(.3/.4) = .0216; the float network is the first."""
    p, q = torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.6, 0.4]]).log()
    assert float(prediction_difference(p, q)) == pytest.approx(0.0216, abs=5e-5)
    assert float(prediction_difference(q, p)) != pytest.approx(0.0216, abs=5e-5)
    x = torch.randn(50, 7)
    assert float(prediction_difference(x, x + 3)) == pytest.approx(0, abs=1e-12)
    from torch.nn.functional import kl_div, log_softmax

    y = torch.randn(50, 7)
    expected = kl_div(log_softmax(y, 1), log_softmax(x, 1), reduction="batchmean", log_target=True)
    assert float(prediction_difference(x, y)) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match="on the same images"):
        prediction_difference(x, y[:3])
    with pytest.raises(ValueError, match="second logits are not finite for 1 images"):
        prediction_difference(x, y.index_fill(0, torch.tensor([4]), torch.nan))
