"""The command line, for people. Without a command it serves a client on standard input and output."""

import argparse
import gc
import json
import os
import sys
from pathlib import Path

from nanodistill_mcp import __version__
from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.runs.paths import data_home
from nanodistill_mcp.runs.records import PIPELINE
from nanodistill_mcp.settings import DEVICE_VARIABLE, from_words, given_to_servers, load_settings

DATA_FORMS = ("trl", "llama-factory", "unsloth", "axolotl", "easydistill", "alpaca")


def main() -> None:
    """Run one command; exits 2 on an anticipated failure, 130 on Ctrl-C."""
    arguments = command_line().parse_args()
    if arguments.home:
        os.environ["NANODISTILL_HOME"] = str(Path(arguments.home).expanduser().absolute())
    os.umask(0o077)
    try:
        if arguments.set:  # as with --home, the servers that a command starts have to know as well
            os.environ.update(given_to_servers(os.environ, from_words(arguments.set)))
        sys.exit(_run(arguments))
    except NanodistillError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(arguments: argparse.Namespace) -> int:  # noqa: C901, PLR0912, PLR0915 - one case a command
    match arguments.command:
        case "demo":
            from nanodistill_mcp.demo.run import run_demo

            return run_demo(data_home(), seed=arguments.seed, fresh=arguments.fresh)
        case "doctor":
            from nanodistill_mcp.cli.checking import show_doctor

            return show_doctor(data_home(), as_json=arguments.json)
        case "config":
            from nanodistill_mcp.cli.configuring import show_configuration

            return show_configuration(data_home(), form=arguments.form, home_is_given=bool(arguments.home))
        case "run":
            from nanodistill_mcp.cli.headless import run_spec

            wanted = {"until": arguments.until, "anyway": arguments.anyway, "train_file": arguments.train_file}
            return run_spec(data_home(), Path(arguments.spec), **wanted)
        case "runs" if arguments.names:
            from nanodistill_mcp.runs.store import RunStore

            print(*RunStore(data_home()).names(), sep="\n")
            return 0
        case "runs":
            from nanodistill_mcp.cli.showing import show_runs

            return show_runs(data_home(), tag=arguments.tag, as_json=arguments.json)
        case "show" if arguments.web:
            from nanodistill_mcp.cli.showing import show_board

            return show_board(data_home(), arguments.run_id)
        case "show":
            from nanodistill_mcp.cli.showing import show_run

            return show_run(data_home(), arguments.run_id, as_json=arguments.json)
        case "logs":
            from nanodistill_mcp.cli.showing import show_logs

            wanted = {"follow": arguments.follow, "as_json": arguments.json}
            return show_logs(data_home(), arguments.run_id, stage=arguments.stage, **wanted)
        case "control":
            from nanodistill_mcp.cli.showing import control_run

            return control_run(data_home(), arguments.run_id, arguments.action)
        case "track":
            from nanodistill_mcp.cli.tracking import track_run

            return track_run(data_home(), arguments.run_id, arguments.to, follow=arguments.follow)
        case "compare":
            return _compare(arguments.run_id, arguments.other_id)
        case "bundle":
            from nanodistill_mcp.cli.bundling import bundle_run

            wanted = {"with_gguf": arguments.gguf, "as_is": arguments.as_is}
            return bundle_run(data_home(), arguments.run_id, arguments.to, **wanted)
        case "import":
            from nanodistill_mcp.cli.bundling import import_run

            return import_run(data_home(), arguments.file, arguments.name, arguments.student)
        case "import-data":
            from nanodistill_mcp.cli.importing import asked_of, import_data

            return import_data(data_home(), asked_of(arguments))
        case "export-data":
            from nanodistill_mcp.cli.exporting import export_rows

            reasoning, model = not arguments.no_reasoning, arguments.model
            return export_rows(
                data_home(), arguments.run_id, arguments.to, out=arguments.out, reasoning=reasoning, model=model
            )
        case "adopt":
            from nanodistill_mcp.cli.adopting import adopt_folder

            asked = {"name": arguments.name, "instruction": arguments.instruction, "student": arguments.student}
            return adopt_folder(data_home(), arguments.folder, **asked)
        case "clean":
            from nanodistill_mcp.cli.cleaning import clean_up

            return clean_up(data_home(), arguments.only, yes=arguments.yes)
        case "install":
            from nanodistill_mcp.cli.installing import DEFAULT_KEY, install

            keys = [] if arguments.no_env else arguments.env or [DEFAULT_KEY]
            return install(arguments.client, keys=keys, dry_run=arguments.dry_run, undo=arguments.undo)
        case "completion":
            from nanodistill_mcp.cli.completion import completion

            print(completion(command_line(), arguments.shell), end="")
            return 0
        case "serve-model":
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
        case "serve" if arguments.http:
            return _serve(over_http=(arguments.host, arguments.port))
        case _:
            return _serve()


def _serve(over_http: tuple[str, int] | None = None) -> int:
    # What a start makes lives as long as the server: looking for garbage among it is a tenth of the start's time.
    gc.disable()
    import anyio

    from nanodistill_mcp.server.build import build_server
    from nanodistill_mcp.server.stdio import serve_stdio

    settings = load_settings(data_home())
    os.environ[DEVICE_VARIABLE] = settings.device  # wherever it was set: workers and their students inherit it
    if settings.prompts:  # one that is not accepted stops the server, as any other value of the configuration does
        from nanodistill_mcp.teacher.wording import read_wordings

        read_wordings(settings.prompts)
    server = build_server(settings)
    gc.freeze()
    gc.enable()
    if over_http:
        from nanodistill_mcp.server.over_http import serve_http

        anyio.run(serve_http, server, *over_http)
        return 0
    if sys.stdin.isatty():
        print(
            "Serving on standard input: this is for an MCP client. Try 'nanodistill-mcp demo' or '--help'.",
            file=sys.stderr,
        )
    anyio.run(serve_stdio, server)
    return 0


def _compare(run_id: str, other_id: str) -> int:
    from nanodistill_mcp.pipeline.compare_runs import compare_runs
    from nanodistill_mcp.runs.store import RunStore

    store = RunStore(data_home())
    print(json.dumps(compare_runs(store.open(run_id), store.open(other_id)), indent=2, ensure_ascii=False))
    return 0


def _tokens(text: str) -> int:
    return _between(text, 64, 1 << 20)


def _side_by_side(text: str) -> int:
    return _between(text, 1, 64)


def _between(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text[:9]) <= most:
        raise argparse.ArgumentTypeError(f"a number from {least} to {most} is wanted")
    return int(text)


def command_line() -> argparse.ArgumentParser:  # noqa: PLR0915 - one line an argument
    """The commands and what they take."""
    parser = argparse.ArgumentParser(prog="nanodistill-mcp", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--home", default="", help="the data directory (else NANODISTILL_HOME, else this user's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a value of the configuration, over all others"
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    serve = commands.add_parser("serve", help="serve an MCP client on standard input and output (the default)")
    serve.add_argument("--http", action="store_true", help="over HTTP instead, with a token: see docs/clients.md")
    serve.add_argument("--port", type=int, default=8765, help="with --http (default 8765)")
    serve.add_argument("--host", default="127.0.0.1", help="with --http, the one address to serve (default 127.0.0.1)")
    demo = commands.add_parser(
        "demo", help="the whole job with an offline teacher and a tiny student: no key, no download"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the data order and the adapter's start (default 0)")
    demo.add_argument("--fresh", action="store_true", help="begin anew instead of continuing")
    doctor = commands.add_parser("doctor", help="check this machine and this configuration, and say what mends what")
    config = commands.add_parser("config", help="every value of the configuration and where it is from; no secret")
    config.add_argument("what", choices=("show",), help="show it")
    forms = config.add_mutually_exclusive_group()
    forms.add_argument("--json", dest="form", action="store_const", const="json", default="", help="for programs")
    forms.add_argument("--yaml", dest="form", action="store_const", const="yaml", help="as a config.yaml, to keep")
    run = commands.add_parser("run", help="carry out a whole run from a file, without an agent; again: go on")
    run.add_argument("spec", help="a YAML or JSON file of create_run's arguments")
    run.add_argument(
        "--train-file",
        default="",
        metavar="FILE",
        help="the examples, where the file names none (else SM_CHANNEL_TRAIN)",
    )
    run.add_argument("--until", default="", choices=PIPELINE, help="the last stage wanted", metavar="STAGE")
    run.add_argument("--anyway", action="store_true", help="go on although the teacher cannot do the task well")
    runs = commands.add_parser("runs", help="list all runs")
    runs.add_argument("--tag", default="", help="only those of this tag")
    runs.add_argument("--names", action="store_true", help="only their ids, one a line")
    compare = commands.add_parser(
        "compare", help="two runs side by side as JSON: settings, scores on the same rows, cost"
    )
    compare.add_argument("run_id", help="a run's id")
    compare.add_argument("other_id", help="the other's")
    track = commands.add_parser(
        "track", help="tell an experiment tracker of a run's training: numbers and settings alone"
    )
    track.add_argument("run_id", help="the run's id")
    track.add_argument("--to", required=True, choices=("mlflow", "wandb", "trackio"), help="the tracker")
    track.add_argument("-f", "--follow", action="store_true", help="until the training ends")
    bundle = commands.add_parser("bundle", help="put a run into one file, to keep or to import elsewhere")
    bundle.add_argument("run_id", help="the run's id")
    bundle.add_argument("--to", default="", help="the file (default RUN.tar.gz in this folder)")
    bundle.add_argument("--gguf", action="store_true", help="with model.gguf")
    bundle.add_argument(
        "--as-is", action="store_true", help="take data that name this machine's folders or what looks like a key"
    )
    imported = commands.add_parser("import", help="make a run of a bundle; only of one from people you trust")
    imported.add_argument("file", help="the bundle")
    imported.add_argument("--name", default="", help="the run's id here (default: the one it had)")
    imported.add_argument("--student", default="", help="a hub id or folder in place of the student it was made with")
    _add_import_data(
        commands.add_parser("import-data", help="make a run of published distillation data, without a teacher")
    )
    rows = commands.add_parser("export-data", help="write a run's rows as another trainer reads them")
    rows.add_argument("run_id", help="the run's id")
    rows.add_argument("--to", required=True, choices=DATA_FORMS, help=f"one of {', '.join(DATA_FORMS)}", metavar="FORM")
    rows.add_argument("--out", default="", help="the folder to make (default RUN-FORM in this folder)")
    rows.add_argument("--no-reasoning", action="store_true", help="the answers alone")
    rows.add_argument("--model", default="", help="what to train there (default: the run's student)")
    adopt = commands.add_parser("adopt", help="make a run of a folder that NanoDistill made")
    adopt.add_argument("folder", help="holds traces_cot.jsonl and traces_amplified.jsonl")
    adopt.add_argument("--name", required=True, help="the run's id")
    adopt.add_argument("--instruction", required=True, help="what the student is to do, as NanoDistill was told")
    adopt.add_argument("--student", default="", help="a hub id or a local folder (default: the configured one)")
    show = commands.add_parser("show", help="show one run")
    logs = commands.add_parser("logs", help="what a run's newest job did and does")
    control = commands.add_parser("control", help="pause, resume, stop or cancel a run's job; what is finished is kept")
    for command in (show, logs, control):
        command.add_argument("run_id", help="the run's id")
    show.add_argument("--web", action="store_true", help="in a browser on this machine, live, until Ctrl-C")
    control.add_argument(
        "action", choices=("pause", "resume", "stop", "cancel"), help="stop keeps a training's student"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="until the job ends")
    logs.add_argument("--stage", default="", help="the newest job of this stage")
    for command in (doctor, runs, show, logs):
        command.add_argument("--json", action="store_true", help="as JSON, for programs")
    clean = commands.add_parser("clean", help="say what could be freed; with --yes, free it")
    clean.add_argument("--yes", action="store_true", help="remove it for good")
    clean.add_argument(
        "--only",
        action="append",
        default=[],
        choices=("trash", "archive", "checkpoints", "temporary"),
        help="this kind",
    )
    client = commands.add_parser(
        "install", help="put the server into a client's configuration; without --client, list them"
    )
    client.add_argument("--client", default="", help="claude-code, claude-desktop, cursor, vscode, codex, ...")
    client.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    client.add_argument("--undo", action="store_true", help="take it out again")
    client.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="a variable with a teacher's key, by name"
    )
    client.add_argument(
        "--no-env", action="store_true", help="no key: the agent is the teacher, or a local one needs none"
    )
    model = commands.add_parser("serve-model", help="serve a run's trained model as OpenAI does: see docs/serving.md")
    model.add_argument("run_id", help="the run's id")
    model.add_argument("--format", default="mlx", choices=("mlx", "gguf"), help="default mlx")
    model.add_argument("--port", type=int, default=8080, help="default 8080")
    model.add_argument("--host", default="127.0.0.1", help="the one address to serve (default 127.0.0.1)")
    model.add_argument(
        "--token", action="store_true", help="ask for a token on this machine too; elsewhere it always is"
    )
    model.add_argument("--context", type=_tokens, default=4096, help="tokens of a question and answer (default 4096)")
    model.add_argument("--parallel", type=_side_by_side, default=4, help="questions answered at once (default 4)")
    shell = commands.add_parser("completion", help="print a script that completes commands and run ids")
    shell.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def _add_import_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", help="a .jsonl, .json, .csv or .parquet file, or a dataset of the hub (org/name)")
    command.add_argument("--name", required=True, help="the run's id")
    command.add_argument(
        "--instruction", default="Answer the question.", help="the student's system message (default: %(default)s)"
    )
    command.add_argument("--student", default="", help="a hub id or a local folder (default: the configured one)")
    command.add_argument("--file", default="", help="with a dataset: the file to read")
    command.add_argument("--revision", default="", help="with a dataset: a commit (default: the newest, which is kept)")
    for words, told in (("rv", "reasoning verbosity"), ("cd", "cognitive difficulty")):
        command.add_argument(f"--{words}-min", type=float, metavar="LEVEL", help=f"{told} of 0 to 9, at least")
        command.add_argument(f"--{words}-max", type=float, metavar="LEVEL", help="at most")
    command.add_argument("--difficulty-bins", default="", metavar="EDGES", help="edges of bins of difficulty: 0,3,6,10")
    command.add_argument(
        "--per-bin", default="", metavar="N", help="rows of each bin: 100, or 50,100,200, or 20%%,30%%,50%%"
    )
    command.add_argument(
        "--limit", type=int, default=10_000, help="examples to train on, at most (default %(default)s)"
    )
    command.add_argument(
        "--held-out", type=int, default=100, help="rows kept aside (default %(default)s, a fifth at most)"
    )
