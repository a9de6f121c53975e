"""The style that all pages for the browser share: base.css."""

from importlib import resources


def base_style() -> str:
    """Return the colours, light and dark, and the fonts, as CSS."""
    return (resources.files(__package__) / "base.css").read_text(encoding="utf-8")
