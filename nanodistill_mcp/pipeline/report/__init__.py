"""What a run came to, for people: one page, two pictures and a model card, made of what lies in its folder."""

NOT_WRITTEN = "report_not_written"
"""Where a stage's exit record says why a part of its report could not be written."""
