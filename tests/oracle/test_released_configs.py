"""The two configurations in the package are those of the installed open_clip."""

import json

import open_clip
import pytest

from minivideococa.checkpoint import released


@pytest.mark.parametrize("name", released.config_names())
def test_configuration_equals_open_clips(name: str) -> None:
    theirs = open_clip.get_model_config(name)
    assert json.loads((released.FOLDER / f"{name}.json").read_text()) == theirs


def test_every_coca_of_open_clip_is_supported_or_named_as_unsupported() -> None:
    cocas = {name for name in open_clip.list_models() if name.lower().startswith("coca")}
    assert cocas == {*released.config_names(), *released.UNSUPPORTED}
