"""The former names of the checks in `config`, until their callers have moved."""

from .config import check_array as array
from .config import check_bool as flag
from .config import check_finite as finite
from .config import check_floats as floats
from .config import check_int as whole
from .config import check_number as number
from .config import check_text as text
from .config import check_texts as texts
from .config import describe as what
from .config import shorten as shown

__all__ = ["array", "finite", "flag", "floats", "number", "shown", "text", "texts", "what", "whole"]
