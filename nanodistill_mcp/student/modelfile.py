"""The Modelfile that lets Ollama run the exported student."""

from nanodistill_mcp.student.export_requests import ExportResult

_QUOTES = '"""'
_CONTEXT = 4096
"""Ollama's own default is short of a worked solution; the whole context would take memory nobody asked for."""


def modelfile(gguf_name: str, result: ExportResult, instruction: str = "", note: str = "") -> str:
    """Write a Modelfile for a GGUF file that lies beside it.

    There is no TEMPLATE: Ollama applies the chat template inside the GGUF file. The instruction becomes the SYSTEM message, as in
    training, so that whoever runs the model only gives it inputs.

    Args:
        gguf_name: The file's name, without a directory.
        result: What the export reported.
        instruction: The task's; data, which must not write lines of its own.
        note: A line for its reader, of our own words.

    Raises:
        ValueError: The name is not that of a file in the same folder.
    """
    if not gguf_name or "/" in gguf_name or any(character.isspace() for character in gguf_name):
        raise ValueError("a Modelfile names a file beside it, without spaces")
    stops = [f'PARAMETER stop "{text}"' for text in result.stop_texts if _is_plain(text)]
    lines = [
        *([f"# {note}"] if note else []),
        f"FROM ./{gguf_name}",
        *stops,
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {min(_CONTEXT, result.context_length)}",
        *_system(instruction.strip(), result),
    ]
    return "\n".join(lines) + "\n"


def _system(instruction: str, result: ExportResult) -> list[str]:
    """The instruction as Ollama's parser reads it: between three quotes, of which a value can hold none and escape none."""
    if not instruction:
        return []
    if result.keeps_system and _QUOTES not in instruction:
        return [f"SYSTEM {_QUOTES}{instruction}{_QUOTES}"]
    return ["# Begin each message with the task's instruction and an empty line: it was trained so."]


def _is_plain(text: str) -> bool:
    """Stop texts come from a tokenizer file: one that could end the line or the quotes is left out."""
    return bool(text) and text.isprintable() and '"' not in text and "\\" not in text
