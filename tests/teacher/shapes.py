"""A shape no stage asks for, kept to prove that a list of objects is read as well as the flat shapes are."""

from pydantic import BaseModel, ConfigDict, Field


class NewExample(BaseModel):
    """An input with its output."""

    model_config = ConfigDict(str_strip_whitespace=True)

    input: str = Field(min_length=1)
    output: str = Field(min_length=1)


class NewExamples(BaseModel):
    """A list of objects."""

    examples: list[NewExample]
