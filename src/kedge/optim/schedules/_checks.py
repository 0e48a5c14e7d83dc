"""Settings of slow starts that cannot be, in words."""

__all__ = ["check_factor", "check_whole"]


def check_whole(name: str, value: int) -> None:
    """Raise ValueError for what is no whole number, 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")


def check_factor(name: str, value: float) -> None:
    """Raise ValueError for what is no share, in (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], a share of the full rate, got {value}")
