"""``nanodistill-mcp completion``: a script for bash, zsh or fish, made from the commands there are.

Run ids are asked for as they are needed.
"""

import argparse
from collections.abc import Iterator

_PROGRAM = "nanodistill-mcp"
_IDS = f"{_PROGRAM} runs --names 2>/dev/null"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from nanodistill_mcp.cli import command_line

    print(script_for(command_line(), arguments.shell), end="")
    return 0


def script_for(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell; its first line says where it belongs."""
    commands = dict(_commands(parser))
    match shell:
        case "fish":
            return _fish(commands)
        case "zsh":
            where = f'# In ~/.zshrc: autoload -Uz compinit && compinit; eval "$({_PROGRAM} completion zsh)"'
            return f"{where}\nautoload -Uz bashcompinit && bashcompinit\n{_bash(commands)}"
        case _:
            return f'# In ~/.bashrc: eval "$({_PROGRAM} completion bash)"\n{_bash(commands)}'


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask for its commands
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
            yield from action.choices.items()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _flags(command: argparse.ArgumentParser) -> list[str]:
    return [flag for action in command._actions for flag in action.option_strings if flag.startswith("--")]  # noqa: SLF001


def _takes(command: argparse.ArgumentParser, name: str) -> bool:
    return any(action.dest == name for action in command._actions)  # noqa: SLF001


def _bash(commands: dict[str, argparse.ArgumentParser]) -> str:
    # Files are left to the shell (-o default): compgen -W would carry out what stands in their names.
    cases = "\n".join(f"    {name}) words='{' '.join(_flags(command))}' ;;" for name, command in commands.items())
    of_runs = "|".join(name for name, command in commands.items() if _takes(command, "run_id"))
    return f"""\
_nanodistill_mcp() {{
  local words current=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}}
  if [ "$COMP_CWORD" = 1 ]; then
    words='{" ".join(commands)}'
  else
    case $command in
{cases}
    esac
    case $command in {of_runs}) words="$words $({_IDS})" ;; esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _nanodistill_mcp {_PROGRAM}
"""


def _fish(commands: dict[str, argparse.ArgumentParser]) -> str:
    lines = [
        f"# {_PROGRAM} completion fish > ~/.config/fish/completions/{_PROGRAM}.fish",
        f"complete -c {_PROGRAM} -f",
        f"complete -c {_PROGRAM} -n __fish_use_subcommand -a '{' '.join(commands)}'",
    ]
    for name, command in commands.items():
        within = f"complete -c {_PROGRAM} -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{within} -l {flag.removeprefix('--')}" for flag in _flags(command)]
        if _takes(command, "run_id"):
            lines.append(f"{within} -a '({_IDS})'")
        if _takes(command, "spec"):
            lines.append(f"{within} -F")
    return "\n".join(lines) + "\n"
