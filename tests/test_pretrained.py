"""Published weights from a file: read without running code, fitted by name and shape."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

import kedge.data
import kedge.networks  # registers the small networks with timm
from kedge.pretrained import load_weights, read_weights


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return timm.create_model("kedge_resnet_small", width=4, num_classes=7)


def fresh(classes=7, channels=3):
    torch.manual_seed(1)
    return timm.create_model("kedge_resnet_small", width=4, num_classes=classes, in_chans=channels)


def same(network, source, head="fc"):
    return {n for n, v in network.state_dict().items() if torch.equal(v, source.state_dict().get(n, torch.zeros(0)))}


@pytest.fixture(scope="module")
def head(source):
    """The last layer's name."""
    return kedge.networks.heads(source)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
        lambda s: {"model": {f"model._orig_mod.{k}": v for k, v in s.items()}},
        # a Lightning checkpoint: the network beside other modules
        lambda s: {"state_dict": {**{f"model.{k}": v for k, v in s.items()}, "loss.weight": torch.ones(3)}},
    ],
)
def test_what_people_save_is_read_whatever_it_is_wrapped_in(source, head, tmp_path, wrap):
    path = tmp_path / "weights.pth"
    torch.save(wrap(source.state_dict()), path)
    network = fresh()
    fit = load_weights(network, path, head, keep_head=True)
    assert same(network, source) == set(source.state_dict())
    assert (fit.missing, fit.unused, fit.head) == ((), (), "loaded")
    assert f"{fit.body} of {fit.body} tensors" in fit.line("weights.pth")


def test_a_head_for_other_classes_stays_fresh_and_one_of_the_same_size_too(source, head, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in source.state_dict().items()}, path)
    for classes in (5, 7):
        network = fresh(classes)
        own = network.get_submodule(*head).weight.clone()
        fit = load_weights(network, path, head, keep_head=False)
        assert torch.equal(network.get_submodule(*head).weight, own)
        assert fit.head.startswith("fresh")
        assert ("same" in fit.head or "these classes" in fit.head) == (classes == 7)
        body = {n for n in source.state_dict() if not n.startswith(head[0])}
        assert same(network, source) >= body
    with pytest.raises(ValueError, match="head"):
        load_weights(fresh(5), path, head, keep_head=True)


def test_other_channels_take_the_kernel_as_timm_does(source, head, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    network = fresh(channels=1)
    load_weights(network, path, head, keep_head=True)
    name = next(n for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d))
    kernel = source.get_submodule(name).weight
    assert torch.allclose(network.get_submodule(name).weight, kernel.sum(1, keepdim=True))
    images = torch.rand(2, 1, 16, 16)
    grey = network.eval()(images)
    assert torch.allclose(grey, source.eval()(images.expand(-1, 3, -1, -1)), atol=1e-5)


def test_weights_of_another_network_are_refused_before_anything_is_changed(head, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    network = fresh()
    before = {n: v.clone() for n, v in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"of another network: \d+ of \d+ tensors"):
        load_weights(network, path, head, keep_head=False)
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_but_tensors_is_read(tmp_path, head):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        read_weights(path)
    torch.save({"a": Evil()}, path)
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_bad_files(source, head, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_weights(tmp_path / "nothing.pth")
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_weights(tmp_path / "x.safetensors")
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no tensors by name"):
        read_weights(tmp_path / "x.pth")
    broken = {k: v.clone() for k, v in source.state_dict().items()}
    next(iter(broken.values())).fill_(float("nan"))
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match="NaN or infinity"):
        load_weights(fresh(), tmp_path / "nan.pth", head, keep_head=True)
    variances = {k: -v if k.endswith("running_var") else v for k, v in source.state_dict().items()}
    torch.save(variances, tmp_path / "negative.pth")
    with pytest.raises(ValueError, match=r"running_var' in .* holds a variance below 0"):
        load_weights(fresh(), tmp_path / "negative.pth", head, keep_head=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda v: (v * 100).to(torch.int8), "is of int8 .* without their scales they are other weights"),
        (lambda v: v.to(torch.complex64), "is of complex64"),
        (lambda v: v.to_sparse(), "is sparse"),
        (lambda v: v.to("meta"), "is without its values"),
        (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), "is quantised"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_are_no_ordinary_weights_are_refused(source, head, tmp_path, changed, words):
    """Codes of eight bits taken for weights are other weights, of the right names and shapes."""
    state = source.state_dict()
    torch.save({k: changed(v) if v.ndim == 4 else v for k, v in state.items()}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=words):
        load_weights(fresh(), tmp_path / "odd.pth", head, keep_head=False)


def test_what_has_no_name_is_no_weight(source, head, tmp_path):
    torch.save({0: torch.zeros(3), ("a", 1): torch.ones(2)}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match="no tensors by name"):
        read_weights(tmp_path / "numbers.pth")
    torch.save({**source.state_dict(), 0: torch.zeros(3)}, tmp_path / "beside.pth")
    network = fresh()
    load_weights(network, tmp_path / "beside.pth", head, keep_head=True)
    assert same(network, source) == set(source.state_dict())


def test_of_two_networks_in_a_file_the_first_is_read_and_the_line_says_so(source, tmp_path):
    """Prefixes of one length, such as student and teacher, were in the order of a set of strings."""
    state = source.state_dict()
    for first, second in (("student", "teacher"), ("teacher", "student")):
        both = {**{f"{first}.{k}": v for k, v in state.items()}, **{f"{second}.{k}": v + 1 for k, v in state.items()}}
        torch.save(both, tmp_path / "both.pth")
        network = fresh()
        fit = load_weights(network, tmp_path / "both.pth", ("fc",), keep_head=True)
        assert same(network, source) == set(state)
        assert f"of several networks in the file the one under '{first}.', not '{second}.';" in fit.line("both.pth")
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "one.pth")
    assert "several" not in load_weights(fresh(), tmp_path / "one.pth", ("fc",), keep_head=True).line("one.pth")


def test_position_embeddings_of_another_image_size_are_those_that_timm_makes(tmp_path):
    path = tmp_path / "vit.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", img_size=96).state_dict(), path)
    ours, theirs = (timm.create_model("test_vit", img_size=64) for _ in range(2))
    fit = load_weights(ours, path, ("head",), keep_head=True)
    assert fit.missing == ()
    timm.models.load_checkpoint(theirs, str(path), filter_fn=timm.models.vision_transformer.checkpoint_filter_fn)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_position_embeddings_of_torchvision_too(tmp_path):
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    def vit(side):
        return VisionTransformer(side, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)

    path = tmp_path / "vit.pth"
    source, network = vit(64), vit(32)
    torch.nn.init.normal_(source.encoder.pos_embedding)
    torch.save(source.state_dict(), path)
    load_weights(network, path, ("heads.head",), keep_head=False)
    wanted = interpolate_embeddings(32, 16, source.state_dict())["encoder.pos_embedding"]
    assert torch.equal(network.encoder.pos_embedding, wanted)


def test_a_network_of_torchvision_gets_the_normalisation_of_its_own_weights(tmp_path, monkeypatch):
    """ImageNet's mean and deviation, which the library's weights say they were trained with."""
    import torchvision

    from kedge.training import Recipe
    from kedge.training.build import make_model, make_network

    name = "shufflenet_v2_x0_5"
    torch.save(torchvision.models.get_model(name, weights=None).state_dict(), tmp_path / "w.pth")
    images = kedge.data.TensorSet(torch.full((4, 3, 32, 32), 9, dtype=torch.uint8), torch.arange(4) % 2, ["a", "b"])
    recipe = Recipe(model=f"torchvision/{name}", weights=str(tmp_path / "w.pth"), pretrained=True, anchored=False)
    model = make_model(recipe, make_network(recipe, images), images)
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert model.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_the_same_shapes_under_other_names_are_pointed_out(source, head, tmp_path):
    path = tmp_path / "others.pth"
    torch.save({f"layer_{i}": v for i, v in enumerate(source.state_dict().values())}, path)
    with pytest.raises(ValueError, match=r"of another network: 0 of .*remap=True"):
        load_weights(fresh(), path, head, keep_head=False)
    network = fresh()
    timm.models.load_checkpoint(network, str(path), remap=True)  # as the message says
    assert same(network, source) == set(source.state_dict())
    torch.save(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(ValueError, match="of another network") as refused:
        load_weights(fresh(), path, head, keep_head=False)
    assert "remap" not in str(refused.value)


def test_a_name_is_looked_up_in_the_folder_of_weights(tmp_path, monkeypatch):
    save_file({"conv.weight": torch.ones(1)}, tmp_path / "mine.safetensors")
    monkeypatch.delenv("KEDGE_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError, match=r"no file 'mine.safetensors', and \$KEDGE_WEIGHTS.* is not set"):
        read_weights("mine.safetensors")
    monkeypatch.setenv("KEDGE_WEIGHTS", str(tmp_path))
    assert set(read_weights("mine.safetensors")) == {"conv.weight"}
    with pytest.raises(FileNotFoundError, match="has none of that name"):
        read_weights("other.safetensors")


@pytest.mark.parametrize(("name", "millions"), [("kedge_resnet20", 0.27), ("kedge_resnet56", 0.86)])
def test_the_networks_for_cifar_have_the_published_sizes(name, millions, tmp_path):
    network = timm.create_model(name, num_classes=10)
    # Table 6 of He et al., arXiv 1512.03385.
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == pytest.approx(millions, abs=0.011)
    assert network.forward_features(torch.zeros(2, 3, 32, 32)).shape == (2, 64, 8, 8)
    assert network(torch.zeros(1, 3, 28, 28)).shape == (1, 10)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    fit = load_weights(timm.create_model(name, num_classes=4), tmp_path / "w.safetensors", ("linear",), False)
    assert not fit.missing


@pytest.mark.parametrize(
    ("inside", "into", "words"),
    [
        ("resnet18", "tf_efficientnet_lite0", "0 of 245 tensors of tf_efficientnet_lite0 are in it by name and shape"),
        ("tf_efficientnet_lite0", "resnet18", r"0 of 100 tensors of resnet18 .* conv1.weight \[64, 3, 7, 7\] is not"),
        ("kedge_resnet20", "kedge_resnet56", r"95 of 275 tensors of kedge_resnet56 .* layer1.3.conv1.weight .* is not"),
        (
            "kedge_resnet56",
            "kedge_resnet20",
            "with more layers: 180 of its 3.. tensors are of layers that kedge_resnet20",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_every_command_in_one_line(inside, into, words, tmp_path):
    from kedge.cli.foreign import load_timm
    from kedge.training import Recipe
    from kedge.training.build import make_network

    path = tmp_path / f"{inside}.safetensors"
    images = kedge.data.TensorSet(torch.zeros((4, 3, 64, 64), dtype=torch.uint8), torch.arange(4) % 2, ["a", "b"])
    state = timm.create_model(inside, num_classes=3).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    for load in (
        lambda: load_timm(f"timm/{into}", str(path)),  # kedge evaluate
        lambda: load_timm(f"timm/{into}", str(path), headless=True),  # kedge adapt
        lambda: make_network(Recipe(model=into, weights=str(path), pretrained=True), images),  # kedge train
    ):
        with pytest.raises(ValueError, match=f"of another network.*{words}") as refused:
            load()
        assert f"Name the network that it is of ({inside}, as the file is called, is one)" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_further_parts_of_a_file_that_are_no_further_layers_are_no_reason_to_refuse_it(source, head, tmp_path):
    path = tmp_path / "weights.pth"
    decoder = {f"decoder.{i}.weight": torch.ones(3) for i in range(100)}
    torch.save({**source.state_dict(), **decoder}, path)
    assert len(load_weights(fresh(), path, head, keep_head=True).unused) == 100


def test_weights_without_the_first_layer_are_refused(source, head, tmp_path):
    """All layers after it would read features of a random one, and the linear probe too."""
    model = kedge.anchor(source, example=(3, 32, 32))
    model.references = torch.rand(3, 3, 32, 32)
    kedge.save(model, tmp_path / "model")
    network = fresh()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"first layer .*stem.weight .* is not in .*anchored model of kedge.*--init-from"
    ):
        load_weights(network, tmp_path / "model" / "model.safetensors", head, keep_head=False)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    state = {name: value for name, value in source.state_dict().items() if name != "stem.weight"}
    torch.save(state, tmp_path / "lacking.pth")
    with pytest.raises(ValueError, match=r"first layer of .*the file has "):
        load_weights(network, tmp_path / "lacking.pth", head, keep_head=False)
