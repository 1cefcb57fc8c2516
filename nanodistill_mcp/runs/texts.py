"""Text of a run as it may be shown: to an agent, in a terminal, on a page."""

import re

_HIDDEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u061c\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff\\U000e0000-\\U000e007f]"
)


def clean(text: str) -> str:
    """The text without control, bidirectional-override or tag characters, and no half of a surrogate pair: each leaves a mark."""
    return _HIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
