"""How long a step is at another sampling rate."""


def step_at(rate: int | None, native_rate: int | None) -> float:
    """Return a step at `rate` Hz in steps of the native rate: 1 where no rate is given, or none is known.

    Raises:
        ValueError: the rate is not above zero.
    """
    if rate is None or native_rate is None:
        return 1.0
    if not rate > 0:
        raise ValueError(f"a sampling rate is above 0 Hz, not {rate}")
    return native_rate / rate
