"""``nanodistill-mcp serve-model``: a run's trained model for other programs."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("run_id", help="the run's id")
    command.add_argument("--format", default="mlx", choices=("mlx", "gguf"), help="default mlx")
    command.add_argument("--port", type=int, default=8080, help="default 8080")
    command.add_argument("--host", default="127.0.0.1", help="the one address to serve (default 127.0.0.1)")
    command.add_argument(
        "--token", action="store_true", help="ask for a token on this machine too; elsewhere it always is"
    )
    command.add_argument("--context", type=_tokens, default=4096, help="tokens of a question and answer (default 4096)")
    command.add_argument("--parallel", type=_side_by_side, default=4, help="questions answered at once (default 4)")


def run(arguments: argparse.Namespace) -> int:
    """Serve it until Ctrl-C."""
    from nanodistill_mcp.cli.serving import serve_model

    return serve_model(
        data_home(),
        arguments.run_id,
        form=arguments.format,
        host=arguments.host,
        port=arguments.port,
        with_token=arguments.token,
        context_tokens=arguments.context,
        parallel=arguments.parallel,
    )


def _tokens(text: str) -> int:
    return _between(text, 64, 1 << 20)


def _side_by_side(text: str) -> int:
    return _between(text, 1, 64)


def _between(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text[:9]) <= most:
        raise argparse.ArgumentTypeError(f"a number from {least} to {most} is wanted")
    return int(text)
