import http.client
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

import kedge
from kedge.cli.file_answers import predict_files
from kedge.data import read_image
from kedge.demo import Answering, Server, Similar, serving
from kedge.demo.answering import Gone
from kedge.demo.saliency import occlusion
from kedge.scores import outputs_of
from kedge.training.unknown_choice import prototypes_of
from tests.browser import chromium


@contextmanager
def at_work(answering, **where):
    """A server of the page that listens; gives it."""
    with Server(answering, port=0, **where) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def send(server, path, body=None, method="POST", **headers):
    """(status, what was said) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    named = {"Content-Type": "application/octet-stream"} if body is not None else {}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, json.loads(content) if "json" in reply.headers["Content-Type"] else content.decode()


def pixels(address):
    """The array of a picture in a `data:` address."""
    return np.asarray(Image.open(io.BytesIO(b64decode(address.partition(",")[2]))))


@pytest.fixture
def server(digit_model):
    with at_work(Answering(digit_model, "digits")) as server:
        yield server


def test_the_answer_is_that_of_predict(server, digit_model, photos):
    rows = predict_files(digit_model, sorted(photos.glob("d*.png")), digit_model.reject)
    answers = set()
    for row, path in zip(rows, sorted(photos.glob("d*.png")), strict=True):
        status, said = send(server, "/answer", path.read_bytes())
        assert status == 200
        assert said["label"] == row["label"]
        assert math.isclose(said["confidence"], row["confidence"], rel_tol=1e-5)
        assert math.isclose(said["uncertainty"], row["uncertainty"], rel_tol=1e-3)
        assert said["answer"] == ("unsure" if row["reject"] else row["label"])
        assert (said["why"] is not None) == row["reject"]
        assert said["classes"][0]["label"] == row["label"]
        assert len(said["classes"]) == 5
        assert (pixels(said["view"]) == read_image(path, 8, 1)[0].numpy()).all()
        answers.add(said["answer"])
    assert len(answers) > 1


def test_unknown_comes_before_unsure(digit_model, photos):
    photo = (photos / "d3.png").read_bytes()
    logits = digit_model.predict(read_image(photo, 8, 1)[None] / 255).logits[0]
    energy = float(logits.logsumexp(0))
    digit_model.reject = {"threshold": 0.99}
    for threshold, answer in ((energy + 0.1, "unknown"), (energy - 0.1, "unsure")):
        digit_model.unknown = {"score": "energy", "threshold": threshold}
        said = Answering(digit_model, "digits").answer(photo)
        assert said["answer"] == answer
        assert said["label"] == str(int(logits.argmax()))
        assert ("trained on" if answer == "unknown" else "confidence is below") in said["why"]
    digit_model.class_names = [*digit_model.class_names[:-2], "unknown", "unsure"]
    answering = Answering(digit_model, "digits")
    assert answering.answer(photo)["answer"] == "(unsure)"
    assert answering.about()["unknown_where"].startswith("energy below ")


def test_the_page_goes_by_prototypes_as_predict_does(digit_model, photos):
    digits = kedge.data.load("digits", "train").images[:40] / 255
    features = outputs_of(digit_model, digits, features=True).features
    digit_model.prototypes = prototypes_of(features, torch.arange(40) % 2)
    paths = sorted(photos.glob("d*.png"))
    images = torch.stack([read_image(path, 8, 1) for path in paths]) / 255
    digit_model.unknown = {"score": "prototypes", "threshold": 0.0}
    scores = digit_model.predict(images).familiarity.sort().values
    digit_model.unknown["threshold"] = float(scores[:2].mean())
    answers = [row["answer"] for row in predict_files(digit_model, paths, digit_model.reject)]
    assert "unknown" in answers
    assert [Answering(digit_model, "digits").answer(path.read_bytes())["answer"] for path in paths] == answers


def test_references_are_counted_as_they_answer_one_by_one(digit_model, photos):
    photo = (photos / "d3.png").read_bytes()
    image = read_image(photo, 8, 1)[None] / 255
    digit_model.references = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    with torch.no_grad():
        digit_model.stem.reference.weight.mul_(4)
        logits = digit_model.predict(image, keep_per_reference=True).per_reference
        digit_model.network.fc.bias.sub_(logits.mean((0, 1)))  # so that the references decide
    each = [int(digit_model.predict(image, r[None]).label) for r in digit_model.references]
    assert len(set(each)) > 1
    for shown in (False, True):
        said = Answering(digit_model, "digits", pictures=shown).answer(photo)
        label = digit_model.class_names.index(said["label"])
        references = said["references"]
        assert (references["of"], references["all"], references["agree"]) == ("references", 40, each.count(label))
        counts = {other["label"]: other["count"] for other in references["others"]}
        assert counts == {str(c): each.count(c) for c in set(each) - {label}}
        for other in references["others"]:
            places = [i for i, c in enumerate(each) if str(c) == other["label"]][:6]
            assert len(other["images"]) == (len(places) if shown else 0)
            for i, address in zip(places, other["images"], strict=False):
                bank = (digit_model.references[i, 0] * 255).round().to(torch.uint8).numpy()
                assert (pixels(address) == bank).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xd8\xff not really", "cannot be read as a photo"),
        (b"", "not an image, or empty"),
        (b"hello", "not an image, or empty"),
        (b"%!PS-Adobe-3.0 EPSF", "PostScript"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    ],
)
def test_what_is_no_photo_is_said_in_words(server, content, words):
    for path in ("/answer", "/map"):
        status, said = send(server, path, content)
        assert status == 400
        assert words in said["error"]
        assert "Traceback" not in said["error"]


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_photo_of_too_many_pixels_is_refused_before_it_is_decoded(server):
    file = io.BytesIO()
    Image.new("1", (12_000, 11_000)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    status, said = send(server, "/answer", file.getvalue())
    assert status == 400
    assert "12000 x 11000 pixels are more than 120,000,000" in said["error"]


def test_the_size_is_bounded_before_anything_is_read(server, photos, monkeypatch):
    monkeypatch.setattr(serving, "LARGEST", 50 << 20)
    assert send(server, "/about", method="GET")[1]["largest"] == 50 << 20
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.putrequest("POST", "/answer")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(60 << 20))
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 413
    assert "the photo has 60 MB, and at most 50 are read" in json.loads(reply.read())["error"]
    photo = (photos / "d0.png").read_bytes()
    assert send(server, "/answer", photo, Content_Type="image/png")[0] == 415
    assert send(server, "/answer", photo, Content_Length="many")[0] == 411
    assert send(server, "/other", photo)[0] == 404
    assert send(server, "/page/index.html", method="GET")[0] == 404
    assert send(server, "/../serving.py", method="GET")[0] == 404


def test_only_this_machine_and_this_page_are_answered(server, digit_model, photos):
    photo, here = (photos / "d0.png").read_bytes(), f"127.0.0.1:{server.server_port}"
    assert server.server_address[0] == "127.0.0.1"
    for name in ("evil.example", "127.0.0.1.evil.example", "[", ""):
        assert send(server, "/", method="GET", Host=name)[0] == 403
    assert send(server, "/answer", photo, Origin="http://evil.example")[0] == 403
    assert send(server, "/answer", photo, Origin="null")[0] == 403
    assert send(server, "/answer", photo, Origin=f"http://{here}")[0] == 200
    assert send(server, "/", method="GET", Host=f"localhost:{server.server_port}")[0] == 200
    with at_work(Answering(digit_model, "digits"), host="0.0.0.0") as open_to_all:
        assert send(open_to_all, "/", method="GET", Host="my-machine:1")[0] == 200


@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_other_addresses_of_this_machine_alone_are_as_safe(digit_model, host):
    try:
        serving = at_work(Answering(digit_model, "digits"), host=host)
        server = serving.__enter__()
    except ValueError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    try:
        assert server.local
        assert server.address == f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"
        for named, status in ((urlsplit(server.address).netloc, 200), ("evil.example", 403)):
            connection = http.client.HTTPConnection(host, server.server_port, timeout=60)
            connection.request("GET", "/", headers={"Host": named})
            assert connection.getresponse().status == status
            connection.close()
    finally:
        serving.__exit__(None, None, None)


def test_photos_that_wait_are_bounded(server, photos, monkeypatch):
    photo = (photos / "d0.png").read_bytes()
    taken = [server.places.acquire() for _ in range(serving.WAITING)]
    assert send(server, "/answer", photo) == (503, {"error": "8 photos are waiting already: try again in a moment"})
    for _ in taken:
        server.places.release()
    with ThreadPoolExecutor(4) as pool:  # and those that are answered at once are answered alike
        said = [reply[1] for reply in pool.map(lambda _: send(server, "/answer", photo), range(8))]
    assert len({(each["label"], each["confidence"]) for each in said}) == 1


def test_the_map_is_what_covering_changes(digit_model):
    """Of log odds, by the mean over the bank; computed again here, place by place."""
    pytest.importorskip("captum")
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    label = int(digit_model.predict(image[None]).label)

    def odds(one):
        p = digit_model.predict(one[None]).probs[0].double()
        return float((p[label] / (1 - p[label])).log())

    expected, count = torch.zeros(8, 8), torch.zeros(8, 8)
    for top in range(7):
        for left in range(7):
            covered = image.clone()
            covered[:, top : top + 2, left : left + 2] = digit_model.mean.reshape(-1)[0]
            expected[top : top + 2, left : left + 2] += odds(image) - odds(covered)
            count[top : top + 2, left : left + 2] += 1
    found = occlusion(digit_model, image, label)
    torch.testing.assert_close(found, expected / count, atol=1e-4, rtol=1e-3)
    assert torch.equal(found, occlusion(digit_model, image, label))


def test_where_a_model_does_not_look_the_map_is_empty():
    pytest.importorskip("captum")

    class Corner(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x[:, :, :8, :8].mean((1, 2, 3)), x.new_zeros(len(x))], 1)

    model = kedge.plain(Corner(), mean=0.5, std=0.25, example=(3, 32, 32)).eval()
    found = occlusion(model, torch.ones(3, 32, 32), 0)
    assert (found[:8, :8] > 0).all()
    assert (found[16:] == 0).all()
    assert (found[:, 16:] == 0).all()
    assert occlusion(model, torch.zeros(3, 32, 32), 0)[:8, :8].max() < 0  # black speaks against it


def test_a_map_that_nobody_waits_for_ends(digit_model, photos):
    pytest.importorskip("captum")
    asked = []

    def gone():
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(Gone):
        Answering(digit_model, "digits").saliency((photos / "d0.png").read_bytes(), gone)
    assert len(asked) == 3


def test_a_map_without_captum_says_what_to_install(server, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    status, said = send(server, "/map", (photos / "d0.png").read_bytes())
    assert status == 500
    assert "pip install" in said["error"]


def test_of_training_photos_a_photo_is_most_like_itself(digit_model):
    data = kedge.data.load("digits", "train")
    similar = Similar(digit_model, data)
    assert (len(similar.photos), similar.of) == (min(1000, len(data)), len(data))
    for i in (0, 7, len(similar.photos) - 1):
        image, label = similar.photos[i]
        nearest = similar.nearest(digit_model, image / 255)
        assert nearest[0]["likeness"] == pytest.approx(1, abs=1e-5)
        assert nearest[0]["label"] == data.class_names[int(label)]
        assert len(nearest) == 4
        assert nearest == sorted(nearest, key=lambda each: -each["likeness"])


def test_an_output_that_is_nan_is_no_answer(digit_model, photos):
    with torch.no_grad():
        next(p for p in digit_model.network.parameters() if p.ndim == 2)[0] = math.nan
    with at_work(Answering(digit_model, "digits")) as server:
        status, said = send(server, "/answer", (photos / "d0.png").read_bytes())
    assert status == 500
    assert "NaN" in said["error"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "ensemble", "cascade", "onnx"])
def test_every_kind_of_classifier_answers(digit_model, photos, tmp_path, kind):
    pytest.importorskip("captum")
    model = kedge.plain(kedge.networks.create("kedge_resnet_small", 10, 1, 8), example=(1, 8, 8)).eval()
    if kind == "ensemble":
        model = kedge.Ensemble([model, digit_model])
    elif kind == "cascade":
        model = kedge.Cascade(model, digit_model, {"threshold": 0.5})
    elif kind == "onnx":
        pytest.importorskip("onnxscript")
        model = kedge.deploy.load_onnx(kedge.deploy.export(digit_model, tmp_path / "digits.onnx").path)
    answering, photo = Answering(model, kind), (photos / "d1.png").read_bytes()
    said = answering.answer(photo)
    prediction = model.predict(read_image(photos / "d1.png", 8, 1)[None] / 255)
    assert said["confidence"] == pytest.approx(float(prediction.confidence), rel=1e-5)
    assert (said["references"] is None) == (kind != "ensemble")
    if kind == "ensemble":
        own = [int(each.predict(read_image(photos / "d1.png", 8, 1)[None] / 255).label) for each in model.members]
        assert said["references"]["all"] == 2
        assert said["references"]["of"] == "members"
        assert said["references"]["agree"] == own.count(int(prediction.label))
    view = pixels(answering.saliency(photo)["map"])
    assert view.shape == (8, 8, 4)
    assert view[..., 3].max() == 190


def test_other_models_are_refused_in_words(command, tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    for example, task, words in (((3, 2, 2), "regression", "a regression model"), ((12,), "classification", "(12,)")):
        model = kedge.plain(network, mean=0.0, std=1.0, example=example, task=task)
        with pytest.raises(ValueError, match=re.escape(words)):
            Answering(model, "other")


def ended_at_once(monkeypatch):
    """Have the server end as Ctrl-C ends it; gives the servers that there were."""
    servers = []

    def serve_forever(self, poll_interval=0.5):
        servers.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", serve_forever)
    return servers


def test_the_command(command, run_folder, monkeypatch):
    servers = ended_at_once(monkeypatch)
    code, out, err = command("demo", run_folder, "--port", "0")
    assert code == 0
    assert out == f"{servers[0].address}\n"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", out.strip())
    assert "the 4 photos of the bank are not shown (--show-photos shows them)" in err
    assert not servers[0].answering.pictures
    assert servers[0].answering.similar is None
    code, _, err = command("demo", run_folder, "--port", "0", "--host", "0.0.0.0", "--device", "cpu")
    assert "careful: whoever reaches this machine" in err


@pytest.mark.slow
def test_training_photos_are_shown_where_that_is_asked_for_and_they_are_here(command, model_folder, tmp_path,
                                                                            monkeypatch):  # fmt: skip
    servers = ended_at_once(monkeypatch)
    _, _, err = command("demo", model_folder, "--port", "0", "--show-photos")
    assert "no training photos are shown: the model belongs to no run here" in err
    assert servers[0].answering.pictures
    monkeypatch.chdir(tmp_path)
    train = ["--data", "digits", "--model", "kedge_resnet_small", "--arguments", '{"width": 2}', "--epochs", "1"]
    train += ["--train_images", "200", "--references", "2", "--workers", "0", "--device", "cpu", "--name", "r"]
    assert command("train", *train)[0] == 0
    command("demo", "r", "--port", "0", "--show_photos", "--device", "cpu")
    similar = servers[1].answering.similar
    assert len(similar.photos) == json.loads((tmp_path / "runs/r/run.json").read_text())["data"]["train"]
    digits = kedge.data.load("digits", "test")
    said = servers[1].answering.answer(png(digits[0][0]))
    assert [set(each) for each in said["similar"]] == [{"image", "label", "likeness"}] * 4


def png(image):
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(file, "PNG")
    return file.getvalue()


def test_a_bank_of_means_is_shown_without_asking(command, run_folder, monkeypatch):
    servers = ended_at_once(monkeypatch)
    recipe = (run_folder / "recipe.yaml").read_text()
    (run_folder / "recipe.yaml").write_text(
        re.sub(r"(?m)^choose: .*", "choose: mean", re.sub(r"(?m)^references: .*", "references: 4", recipe))
    )
    (run_folder / "run.json").write_text(json.dumps({"data": {"train": 1200, "val": 10}}))
    command("demo", run_folder, "--port", "0")
    assert servers[0].answering.pictures


def test_a_port_that_is_taken(command, run_folder, server):
    with pytest.raises(ValueError, match=rf"cannot listen at 127.0.0.1:{server.server_port} .*--port"):
        command("demo", run_folder, "--port", server.server_port)
    with pytest.raises(ValueError, match="--port must be 0 to 65,535, got 70000"):
        command("demo", run_folder, "--port", "70000")
    with pytest.raises(ValueError, match=r"cannot listen at 203\.0\.113\.7"):
        command("demo", run_folder, "--host", "203.0.113.7")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_program_answers_ends_at_ctrl_c_and_writes_nothing(model_folder, photos, tmp_path):
    for name in ("home", "tmp", "here"):
        (tmp_path / name).mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    environment["MPLCONFIGDIR"] = str(tmp_path / "matplotlib")  # where captum's import keeps a list of fonts
    with subprocess.Popen(
        [sys.executable, "-m", "kedge", "demo", str(model_folder), "--port", "0", "--device", "cpu"],
        cwd=tmp_path / "here", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    ) as program:  # fmt: skip
        address = urlsplit(program.stdout.readline().strip())
        for path in ("/answer", "/map") if "captum" in sys.modules else ("/answer",):
            connection = http.client.HTTPConnection(address.netloc, timeout=120)
            headers = {"Content-Type": "application/octet-stream"}
            connection.request("POST", path, (photos / "d1.png").read_bytes(), headers)
            assert connection.getresponse().status == 200
        program.send_signal(signal.SIGINT)
        assert program.wait(20) == 0
        assert "ended" in program.stderr.read()
    assert not any(path.is_file() for name in ("home", "tmp", "here") for path in (tmp_path / name).rglob("*"))


# In a browser.


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(server, browser):
    """The page in a browser, and what it asked for."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.asked, page.faults = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda fault: page.faults.append(fault))
    page.on("console", lambda line: page.faults.append(line.text) if "favicon" not in line.text else None)
    page.on("filechooser", lambda chooser: None)  # from now on, so that none opens before it is waited for
    page.goto(server.address)
    page.wait_for_selector("#about:not(:empty)")
    yield page
    context.close()


def looked_at(page):
    """Wait until the answer and, if there are maps, the map is there."""
    page.wait_for_selector("#result:not([hidden])")
    page.wait_for_selector(
        '#mapwords:has-text("covered"), #mapwords:has-text("No map"), #maprow[hidden]', state="attached"
    )


def test_a_photo_gets_its_label_and_the_page_asks_this_machine_alone(opened, server, photos):
    opened.set_input_files("#file", photos / "d1.png")
    looked_at(opened)
    said = server.answering.answer((photos / "d1.png").read_bytes())
    assert opened.inner_text("#answer") == said["answer"]
    assert f"{100 * said['confidence']:.1f} % confidence" in opened.inner_text("#confidence")
    assert opened.inner_text("#classes tr:first-child td:first-child") == said["label"]
    assert "4 references answer" in opened.inner_text("#refwords")
    assert opened.title() == "digits – kedge demo"
    if said_map := server.answering.about()["map"]:
        assert opened.is_visible("#map") == said_map
        opened.uncheck("#showmap")
        assert not opened.is_visible("#map")
    assert opened.faults == []
    assert {urlsplit(url).netloc for url in opened.asked if not url.startswith("data:")} == {
        f"127.0.0.1:{server.server_port}"
    }


def test_a_broken_file_is_said_and_the_next_photo_is_answered(opened, photos):
    opened.set_input_files("#file", photos / "d1.png")
    looked_at(opened)
    opened.set_input_files("#file", photos / "broken.jpg")
    opened.wait_for_selector("#error:not([hidden])")
    assert "cannot be read as a photo" in opened.inner_text("#error")
    assert not opened.is_visible("#result")
    assert not opened.is_visible("#stage")
    opened.set_input_files("#file", photos / "d2.png")
    looked_at(opened)
    assert not opened.is_visible("#error")


def test_a_photo_that_is_too_large_is_not_sent(opened, tmp_path):
    (tmp_path / "huge.jpg").write_bytes(bytes(serving.LARGEST + 1))
    opened.set_input_files("#file", tmp_path / "huge.jpg")
    opened.wait_for_selector("#error:not([hidden])")
    assert opened.inner_text("#error") == "The photo has 31 MB, and at most 30 are read."
    assert not any(url.endswith("/answer") for url in opened.asked)


def test_by_keyboard(opened, photos):
    opened.keyboard.press("Tab")
    assert opened.locator("#choose").evaluate("each => each === document.activeElement")
    with opened.expect_file_chooser() as chooser:
        opened.keyboard.press("Enter")
    chooser.value.set_files(photos / "d3.png")
    looked_at(opened)
    assert opened.get_attribute("#result [role]", "role") == "status"
    opened.keyboard.press("Tab")
    assert opened.locator("#camera").evaluate("each => each === document.activeElement")


SHARE = """(target, [bytes, kind]) => {
  const data = new DataTransfer();
  if (bytes) data.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
  else data.setData("text/uri-list", "http://evil.example/photo.png");
  const settings = { bubbles: true, cancelable: true };
  target.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, { ...settings, clipboardData: data })
    : new DragEvent(kind, { ...settings, dataTransfer: data }));
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_dropped_and_pasted(opened, photos, kind):
    opened.locator("#drop").evaluate(SHARE, [list((photos / "d4.png").read_bytes()), kind])
    looked_at(opened)
    opened.locator("#drop").evaluate(SHARE, [None, kind])  # an address, which is not fetched
    opened.wait_for_selector("#error:not([hidden])")
    assert "The page fetches nothing" in opened.inner_text("#error")
    assert not any("evil.example" in url for url in opened.asked)


def test_the_camera(opened):
    opened.click("#camera")
    opened.wait_for_selector("#snap:not([hidden])")
    opened.wait_for_timeout(500)  # for its first picture
    opened.click("#snap")
    looked_at(opened)
    assert not opened.is_visible("#video")
    assert opened.inner_text("#camera") == "Camera"


@pytest.mark.parametrize("width", [1280, 375])
def test_nothing_is_wider_than_the_screen(opened, server, photos, width):
    server.answering.names = ["a-class-of-a-very-long-name-without-any-space-" * 3] * 10
    opened.set_viewport_size({"width": width, "height": 800})
    opened.reload()
    opened.set_input_files("#file", photos / "d1.png")
    looked_at(opened)
    assert opened.locator("html").evaluate("each => each.scrollWidth") == width
    for button in opened.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 44


def test_names_are_text(opened, server, photos):
    server.answering.names = ["<img src=x onerror=alert(1)>"] * 10
    server.answering.name = "<b>name</b>"
    opened.reload()
    opened.set_input_files("#file", photos / "d1.png")
    looked_at(opened)
    assert opened.inner_text("#name") == "<b>name</b>"
    assert opened.locator("#classes img").count() == 0
