"""The Modelfile that lets Ollama run the exported student."""

from nanodistill_mcp.student.requests import ExportResult

_CONTEXT = 4096
"""Ollama's own default is short of a worked solution; the whole context would take memory nobody asked for."""


def modelfile(gguf_name: str, result: ExportResult, note: str = "") -> str:
    """Write a Modelfile for a GGUF file that lies beside it.

    There is no TEMPLATE: Ollama applies the chat template inside the GGUF file.

    Args:
        gguf_name: The file's name, without a directory.
        result: What the export reported.
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
    ]
    return "\n".join(lines) + "\n"


def _is_plain(text: str) -> bool:
    """Stop texts come from a tokenizer file: one that could end the line or the quotes is left out."""
    return bool(text) and text.isprintable() and '"' not in text and "\\" not in text
