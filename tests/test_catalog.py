"""The catalogue of a room that is made here: two fruits, one of which holds another."""

from pathlib import Path

import pytest

import kedge
from kedge import catalog, own_code, specs

APPLE = '''"""A fruit.

More of it.
"""

from kedge.catalog import Info

info = Info("On apples", "Newton", "Principia", 1687, "https://example.org", "derived")


class Fruit:
    room = "fruits"


class Apple(Fruit):
    def __init__(self, weight: float = 1.0, colour: str = "red") -> None:
        self.weight, self.colour = weight, colour
'''
BASKET = '''"""What holds a fruit."""

from pathlib import Path

from kedge.fruits.green_apple import Fruit


class FruitBasket(Fruit):
    def __init__(self, inner: Fruit, second: Fruit | None = None, place: Path | None = None, **more: int) -> None:
        self.inner, self.second, self.place = inner, second, place
'''


@pytest.fixture(autouse=True)
def fruits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A room called fruits."""
    folder = tmp_path / "fruits"
    folder.mkdir()
    (folder / "green_apple.py").write_text(APPLE.replace("class Apple", "class GreenApple"))
    (folder / "fruit_basket.py").write_text(BASKET)
    (folder / "_workshop.py").write_text("raise SystemExit")
    monkeypatch.setattr(catalog, "HOME", tmp_path)
    monkeypatch.setattr(kedge, "__path__", [*kedge.__path__, str(tmp_path)])
    catalog.names.cache_clear()
    yield
    catalog.names.cache_clear()


def test_a_room_is_its_folder():
    assert catalog.names("fruits") == ("fruit_basket", "green_apple")
    assert catalog.summary("fruits", "green_apple") == "A fruit."
    with pytest.raises(ValueError, match="vegetables"):
        catalog.names("vegetables")


@pytest.mark.parametrize("name", ["green_apple", "green-apple", "GreenApple", "GREENAPPLE"])
def test_names_are_written_in_several_ways(name):
    assert catalog.resolve("fruits", name) == "green_apple"
    assert catalog.get("fruits", name).__name__ == "GreenApple"


def test_a_wrong_name_is_told_with_the_nearest():
    with pytest.raises(ValueError, match=r"'green_aple'.*fruit_basket.*did you mean green_apple"):
        catalog.get("fruits", "green_aple")


def test_own_code_only_where_it_is_allowed():
    with pytest.raises(ValueError, match="allow"):
        catalog.get("fruits", "yaml:SafeLoader")
    with own_code.allow_code():
        assert catalog.get("fruits", "yaml:SafeLoader").__name__ == "SafeLoader"


def test_info_is_read_from_the_file():
    found = catalog.info("fruits", "green_apple")
    assert found is not None
    assert found.cite == "Newton, Principia 1687"
    assert catalog.info("fruits", "fruit_basket") is None
    with pytest.raises(ValueError, match="hearsay"):
        catalog.Info("On pears", checked="hearsay")


def test_arguments_are_built_by_their_type():
    spec = {"FruitBasket": {"second": {"green_apple": {"weight": 2.0}}, "place": "here"}}
    basket = specs.build("fruits", spec, "inner", builders={Path: lambda name: Path("made") / name}, colour="green")
    assert basket.inner == "inner"
    assert (basket.second.weight, basket.second.colour) == (2.0, "green")
    assert basket.place == Path("made/here")


def test_what_the_run_knows_yields_to_the_spec():
    assert specs.build("fruits", {"green_apple": {"colour": "yellow"}}, colour="green").colour == "yellow"
    assert specs.build("fruits", "green_apple", colour="green", eps=1).colour == "green"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"green_apple": {"wieght": 1}}, "no argument 'wieght'.*did you mean weight"),
        ({"fruit_basket": {"second": {"green_apple": {"size": 1}}}}, "fruit_basket: second: .*no argument 'size'"),
        ("fruit_basket", "needs inner: {fruit_basket: {inner: ...}}"),
        ({"a": {}, "b": {}}, "NAME or"),
        ({"green_apple": 3}, "NAME or"),
        (7, "NAME or"),
    ],
)
def test_what_cannot_be_built_is_told(spec, words):
    with pytest.raises(ValueError, match=words):
        specs.build("fruits", spec)
