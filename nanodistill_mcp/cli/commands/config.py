"""``nanodistill-mcp config``: the configuration, told."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("what", choices=("show",), help="show it")
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--json", dest="form", action="store_const", const="json", default="", help="for programs")
    forms.add_argument("--yaml", dest="form", action="store_const", const="yaml", help="as a config.yaml, to keep")


def run(arguments: argparse.Namespace) -> int:
    """Show it."""
    from nanodistill_mcp.cli.configuring import show_configuration

    return show_configuration(data_home(), form=arguments.form, home_is_given=bool(arguments.home))
