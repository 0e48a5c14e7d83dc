"""How long a training takes: said after a few steps, corrected when it was wrong, and where it is off a terminal."""

import re
from datetime import datetime

import pytest

import kedge.training.pace as pace
from kedge.training import fit


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "about 10 seconds"), (44, "about 40 seconds"), (101, "about 1.7 minutes"), (720, "about 12 minutes"),
     (3600, "about 60 minutes"), (9000, "about 2.5 hours"), (3600 * 30, "about 30 hours"), (86400 * 3, "about 3 days")],
)  # fmt: skip
def test_durations_are_said_as_exactly_as_they_are_known(seconds, words):
    assert pace.duration(seconds) == words


def test_the_end_has_its_day_where_that_is_another_one():
    now = datetime(2024, 2, 28, 23, 0)
    assert pace.until(59 * 60, now) == "until 23:59"
    assert pace.until(2 * 3600, now) == "until Thursday 01:00"
    assert pace.until(10 * 86400, now) == "until 2024-03-09 23:00"


class Clock:
    """A clock that each look at it moves on."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def slow(monkeypatch):
    """Runs whose clock moves by so many seconds with each look at it; all their lines come without a bar."""

    def use(seconds: float) -> None:
        clock = Clock(seconds)
        own = pace.Pace
        monkeypatch.setattr("kedge.training.epochs.Pace", lambda times, lines: own(times, lines, clock))

    return use


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_long_run_says_its_end_after_a_few_steps_and_where_it_is(tiny, slow, capsys):
    slow(20.0)
    fit(tiny(epochs=3), report=False)
    said = lines(capsys)
    first = next(i for i, line in enumerate(said) if line.startswith("after 3 steps: training takes about"))
    assert re.fullmatch(r"after 3 steps: training takes about [\d.]+ (minutes|hours), until .*\d\d:\d\d", said[first])
    ends = [i for i, line in enumerate(said) if line.startswith("epoch 1/3  loss")]
    assert first < ends[0]
    within = [line for line in said[first:] if re.match(r"epoch \d/3, step \d+ of \d+  loss \d+\.\d{3}  about", line)]
    assert len(within) > 3


def test_a_short_run_says_nothing_of_time(tiny, capsys):
    fit(tiny(epochs=3), report=False)
    assert not [line for line in lines(capsys) if "until" in line or ", step" in line]


def test_nothing_is_said_where_no_progress_is_asked_for(tiny, slow, capsys):
    slow(20.0)
    fit(tiny(epochs=3), report=False, progress=False)
    assert lines(capsys) == []


class Told:
    """A run of two epochs of 10 steps, as far as the callback looks at it."""

    class device:
        type = "cpu"

    class recipe:
        batch_size, references, anchored = 32, 4, True

    def __init__(self) -> None:
        self.val_set, self.said = range(64), []
        self.max_epochs, self.num_training_batches, self.current_epoch = 2, 10, 0

    def print(self, words: str, flush: bool) -> None:
        self.said.append(words)


class Hand:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def train(times: float, step: float, validation: float) -> tuple[list[str], float, list[float]]:
    """(what is said, how long it took, what was left by the callback each time that it spoke)."""
    run, clock = Told(), Hand()
    callback, left = pace.Pace(times, True, clock), []
    real = callback._say
    callback._say = lambda module, words: (left.append((clock.now, callback.end)), real(module, words))
    for run.current_epoch in range(2):
        callback.on_train_epoch_start(run, run)
        for i in range(10):
            clock.now += step if (run.current_epoch, i) != (0, 0) else 10 * step  # the first step warms up
            callback.on_train_batch_end(run, run, {"loss": 0.5}, None, i)
        callback.on_validation_start(run, run)
        clock.now += validation
        callback.on_validation_end(run, run)
        callback.on_train_epoch_end(run, run)
    return run.said, clock.now, left


def test_the_estimate_is_of_the_steps_the_validation_and_the_end():
    """A step of 9 s: two batches of validation images take a third of that each, and four times so at the end."""
    said, took, spoken = train(1, 9.0, 6.0)
    left = 17 * 9.0 + 2 * 6.0 + 4 * 6.0
    assert said[0].startswith(f"after 3 steps: training takes {pace.duration(left)}, until ")
    _, end = spoken[0]
    assert end == pytest.approx(took + 4 * 6.0)  # what it took, and the last validation by all references
    assert not [words for words in said if words.startswith("the rest")]


def test_what_was_estimated_wrongly_is_corrected_once_it_was_measured():
    said, took, spoken = train(1, 3.0, 100.0)
    (corrected,) = [words for words in said if words.startswith("the rest takes about")]
    assert spoken[said.index(corrected)][1] == pytest.approx(took + 4 * 100.0)


def test_the_first_of_three_folds_speaks_for_all():
    _, _, one = train(1, 9.0, 6.0)
    said, _, all_of = train(4.5, 9.0, 6.0)
    assert "with all folds, until" in said[0]
    at, end = all_of[0]
    assert end - at > 4 * (one[0][1] - one[0][0])
