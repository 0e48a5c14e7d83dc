from datetime import UTC, datetime, timedelta

import pytest

from kedge.clock import is_before, now


def test_now_is_the_time_in_utc_to_the_second():
    at = datetime.fromisoformat(now())
    assert at.utcoffset() == timedelta(0)
    assert at.microsecond == 0
    assert abs(datetime.now(UTC) - at) < timedelta(seconds=60)


def test_times_of_other_zones_and_of_earlier_records_compare():
    assert is_before("2026-11-28T22:33:15+0000", "2026-11-28T22:33:16+00:00")
    assert is_before("2026-11-28T23:33:15+0200", "2026-11-28T22:33:15+0000")
    assert not is_before("2026-11-28T22:33:15+0000", "2026-11-28T22:33:15+00:00")


@pytest.mark.parametrize("other", [None, 5, "yesterday", "2026-11-28T22:33:15", ["2026"]])
def test_what_is_no_time_is_before_nothing(other):
    assert not is_before(other, now())
    assert not is_before(now(), other)
