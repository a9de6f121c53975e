"""How many examples Hypothesis draws for a property that is tried more or less often than others."""

from hypothesis import settings


def examples(number: int) -> int:
    """Return so many for the profile `full`, and a fifth of them for the plain tests; see conftest.py."""
    return max(number * settings().max_examples // 100, 1)
