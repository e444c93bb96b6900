"""The ``irc`` command: names of commands, arguments and flags.  What they do is in ``runtime/commands.py``."""

from __future__ import annotations

import errno
import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from . import __version__
from .ir.errors import IRError
from .ir.escape import printable
from .ir.source import FULL, is_library
from .runtime import commands
from .runtime.commands import DebugRequest, DiffRequest, DumpRequest, OptRequest, RunRequest, UsageError
from .runtime.commands.modules import Given

app = typer.Typer(
    name="irc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"tapeir {__version__}")
        raise typer.Exit


@app.callback()
def irc(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Trace, optimise, run and train neural networks as typed SSA IR."""


ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL.py", help="A model file.")]
FileArgument = Annotated[Path, typer.Argument(metavar="MODEL.py|FILE.ir", help="A model file or IR text.")]
Dtype = Annotated[str | None, typer.Option(help="float (= float64), float64, float32, float16 or bfloat16.")]
BackendName = Annotated[str | None, typer.Option("--backend", help="eager, compiled, or a registered name.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Same as --device cpu.")]
Cuda = Annotated[bool, typer.Option("--cuda", help="Same as --device cuda.")]
BatchSize = Annotated[int | None, typer.Option(help="Rows of one minibatch.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate of the model file's optimizer.")]
Seed = Annotated[int | None, typer.Option(help="Seed of initialisation, dropout and shuffling.")]
Numerics = Annotated[str | None, typer.Option(help="exact, or fast: sums in another order and contraction allowed.")]
Guard = Annotated[
    str | None,
    typer.Option(
        help="nonfinite: stop at the op that first makes a NaN or infinity. recorded: check that the model still records the same program."
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another field of Config or TrainOptions.")
]
GivenFlags = Callable[..., Given]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
AfterAll = Annotated[
    Path | None,
    typer.Option(
        help="Folder for a numbered dump after each pass that changed something, and index.txt. Of IR stages after traced."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Write here instead of standard output; large constants go beside it."),
]
Locations = Annotated[bool, typer.Option("--locations", help="Print each op's source line.")]
Stage = Annotated[str, typer.Option(help=f"{', '.join(s for s in commands.STAGES if s != 'program')}.")]
Entry = Annotated[
    str | None, typer.Option(help="forward, loss or train_step of a model; the name of a function of IR text.")
]
Mode = Annotated[str | None, typer.Option(help="train or eval.")]
Inputs = Annotated[
    Path | None, typer.Option(metavar="FILE.npz", help="Arguments of IR text by name; keys come from --seed.")
]
Backends = Annotated[str, typer.Option(help="eager, and the backend to hold beside it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _flags(
    dtype: str | None,
    backend: str | None,
    device: str | None,
    cpu: bool,
    cuda: bool,
    settings: list[str] | None,
    **rest: Any,
) -> dict[str, Any]:
    if cpu + cuda + (device is not None) > 1:
        raise UsageError("--cpu, --cuda and --device exclude each other")
    device = "cpu" if cpu else "cuda" if cuda else device
    given = {**rest, "dtype": dtype, "backend": backend, "device": device}
    return {**commands.parse_settings(settings or []), **{k: v for k, v in given.items() if v is not None}}


def _usage(call: Callable[[], Any]) -> Any:
    """Run a command; what it calls wrong usage exits with 2, and an interrupt with 1."""
    try:
        return call()
    except UsageError as error:
        raise typer.BadParameter(printable(str(error))) from None
    except KeyboardInterrupt:
        print("interrupted: what was not written before is gone", file=sys.stderr)
        raise typer.Exit(1) from None


_MODEL_FLAGS: dict[str, tuple[Any, Any]] = {
    "dtype": (Dtype, None), "backend": (BackendName, None), "cpu": (Cpu, False), "cuda": (Cuda, False), "device": (Device, None),
    "batch_size": (BatchSize, None), "lr": (Lr, None), "seed": (Seed, None), "numerics": (Numerics, None), "guard": (Guard, None),
    "settings": (Set, None),
}  # fmt: skip


def _builds_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of all that build a model.

    It gets them as ``given``, which checks and collects them when it is called, with more flags as keywords.
    """

    def call(context: typer.Context, **arguments: Any) -> None:
        flags: dict[str, Any] = {name: arguments.pop(name) for name in _MODEL_FLAGS}

        def given(**more: Any) -> Given:
            return Given(_flags(**flags, **more), context.obj or ())

        command(**arguments, given=given)

    own = list(inspect.signature(command, eval_str=True).parameters.values())
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _MODEL_FLAGS.items()
    ]
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, *own[:-1], *added]
    call.__signature__ = inspect.Signature(parameters)
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    return call


@app.command()
@_builds_model
def run(
    model: FileArgument,
    steps: Annotated[
        int | None,
        typer.Option(help="Total optimiser updates, counted from step 0; of IR text, runs fed with updates."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    stop_at: Annotated[
        int | None, typer.Option(help="End this process at this step; --resume goes on from there.")
    ] = None,
    log_every: Annotated[int | None, typer.Option(help="Print the loss every N updates.")] = None,
    log: Annotated[Path | None, typer.Option(help="JSON-lines file: one line an update.")] = None,
    cuda_mem_watch: Annotated[
        int | None, typer.Option(help="On CUDA, print the allocator's numbers every N updates, and a verdict.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the state here at the end (safetensors).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on from a saved state.")] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No bar, even on a terminal.")] = False,
    entry: Annotated[str | None, typer.Option(metavar="@NAME", help="The function of IR text to run.")] = None,
    inputs: Inputs = None,
    outputs: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Write the results of IR text here, by name.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the result.")] = False,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Train a model file, or run a function of IR text.

    What stands after -- goes to the model file.
    """
    sys.excepthook = _explain(debug)
    request = RunRequest(save, json, entry, inputs, outputs)
    _usage(lambda: commands.run(model, request, given(
        steps=steps, epochs=epochs, stop_at=stop_at, log_every=log_every, log=log, cuda_mem_watch=cuda_mem_watch,
        resume=resume, progress=False if no_progress else None,
    )))  # fmt: skip


@app.command()
@_builds_model
def dump(
    model: ModelArgument,
    stage: Annotated[str, typer.Option(help=f"{', '.join(commands.STAGES)}.")] = "traced",
    entry: Annotated[str, typer.Option(help=f"{', '.join(commands.ENTRIES)}.")] = "forward",
    mode: Annotated[str, typer.Option(help="train or eval.")] = "train",
    after_all: AfterAll = None,
    locations: Locations = False,
    output: Output = None,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Print the IR of a model at a stage of the compiler.

    What stands after -- goes to the model file.
    """
    sys.excepthook = _explain(debug)
    request = DumpRequest(stage, entry, mode, after_all, locations, output)
    _usage(lambda: commands.dump(model, request, given()))


@app.command()
@_builds_model
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A model file or IR text.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="A model file or IR text.")],
    stage: Stage = "traced",
    entry: Entry = None,
    mode: Mode = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with both graphs here.")] = None,
    json: Json = False,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Print the structural differences of two programs.

    Names, order and layout are no differences.  Exit code 0: same, 1: different, 2: error.
    """
    sys.excepthook = _explain(debug, 2)
    request = DiffRequest(stage, entry, mode, json, html)
    if _usage(lambda: commands.diff(a, b, request, given())):
        raise typer.Exit(1)


@app.command()
@_builds_model
def view(
    file: FileArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The page; NAME.html by default.")] = None,
    stage: Stage = "traced",
    entry: Entry = None,
    mode: Mode = None,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Write an HTML page with the graph of a program."""
    sys.excepthook = _explain(debug)
    request = DiffRequest(stage, entry, mode, output=output)
    _usage(lambda: commands.view(file, request, given()))


@app.command()
@_builds_model
def compare(
    file: FileArgument,
    backends: Backends = "eager,compiled",
    entry: Entry = None,
    mode: Mode = None,
    inputs: Inputs = None,
    json: Json = False,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Find where a compiled program and the tape part.

    Kernel by kernel, beside a float64 reference.  Exit code 0: same, 1: different.
    """
    sys.excepthook = _explain(debug)
    request = DebugRequest(entry, mode, inputs, backends.split(","), json=json)
    if _usage(lambda: commands.compare(file, request, given())):
        raise typer.Exit(1)


@app.command()
@_builds_model
def bisect(
    file: FileArgument,
    passes: Annotated[str | None, typer.Option(help="Names of passes, separated by commas; default: all.")] = None,
    backends: Backends = "eager,compiled",
    entry: Entry = None,
    mode: Mode = None,
    inputs: Inputs = None,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Name the rewrite that makes a program wrong."""
    sys.excepthook = _explain(debug)
    names = [p for p in passes.split(",") if p] if passes is not None else None
    request = DebugRequest(entry, mode, inputs, backends.split(","), names)
    _usage(lambda: commands.bisect(file, request, given()))


@app.command()
@_builds_model
def reduce(
    file: FileArgument,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="CMD",
            help="Keep this command's exit code. No shell runs it; {} is the candidate's file (else it comes last), "
            "{inputs} its arguments. Default: what compare finds.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds the command may take.")] = 60.0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the IR here and its arguments to .npz beside it.")
    ] = None,
    backends: Backends = "eager,compiled",
    entry: Entry = None,
    mode: Mode = None,
    inputs: Inputs = None,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Find the smallest IR that still shows a failure."""
    sys.excepthook = _explain(debug)
    request = DebugRequest(entry, mode, inputs, backends.split(","), test=test, timeout=timeout, output=output)
    _usage(lambda: commands.reduce(file, request, given()))


@app.command()
@_builds_model
def bench(
    model: ModelArgument,
    against: Annotated[
        str, typer.Option(help="Backends, torch (eager and compiled) and jax, separated by commas.")
    ] = "eager",
    rounds: Annotated[int, typer.Option(help="How often every contender has its turn.")] = 5,
    seconds: Annotated[float, typer.Option(help="About how long one turn is.")] = 0.5,
    json: Json = False,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Time a training step beside other backends and frameworks.

    Also the first step, and memory.  A step goes from host arrays to the loss.  Every contender has a process of its own; a framework that
    is not there gets a note.
    """
    sys.excepthook = _explain(debug)
    names = [a for a in against.split(",") if a]
    _usage(lambda: commands.bench(model, names, rounds, seconds, json, given()))


@app.command()
@_builds_model
def profile(
    file: FileArgument,
    entry: Entry = None,
    mode: Mode = None,
    json: Json = False,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Show where the time goes: each kernel, its ops and source lines.

    By default of train_step, on the file's backend or, where it chooses none, on compiled.
    """
    sys.excepthook = _explain(debug)
    _usage(lambda: commands.profile(file, entry, mode, json, given()))


cache_app = typer.Typer(help="Look into the disk cache of compiled programs, or clear it.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")


@cache_app.command("ls")
def cache_ls(debug: Debug = False) -> None:
    """List all entries, the latest used first."""
    sys.excepthook = _explain(debug)
    _usage(commands.cache_ls)


@cache_app.command("why")
@_builds_model
def cache_why(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL.py|FILE.ir]", help="A model file or IR text; none: what all keys share."),
    ] = None,
    entry: Entry = None,
    mode: Mode = None,
    debug: Debug = False,
    *,
    given: GivenFlags,
) -> None:
    """Say whether a program is in the cache, and what its key is made of.

    By default that of train_step.
    """
    sys.excepthook = _explain(debug)
    _usage(lambda: commands.cache_why(file, entry, mode, given()))


@cache_app.command("clear")
def cache_clear(debug: Debug = False) -> None:
    """Delete all entries."""
    sys.excepthook = _explain(debug)
    _usage(commands.cache_clear)


@app.command()
def opt(
    file: Annotated[Path, typer.Argument(metavar="FILE.ir", help="IR text.")],
    passes: Annotated[str, typer.Option(help="Names of passes, separated by commas; see irc passes.")],
    after_all: AfterAll = None,
    verify_each: Annotated[bool, typer.Option("--verify-each", help="Verify after every pass.")] = False,
    why: Annotated[
        str | None,
        typer.Option(
            metavar="%VALUE", help="Print what rewrites, compose, decompose, fold, cse and dce said of a value's op."
        ),
    ] = None,
    fuel: Annotated[int | None, typer.Option(help="Apply at most N rewrites.")] = None,
    device: Annotated[str, typer.Option(help="What the result is to run on: cpu, cuda or cuda:N.")] = "cpu",
    numerics: Annotated[str, typer.Option(help="exact or fast: what rewrites may do to the last bits.")] = "exact",
    locations: Locations = False,
    output: Output = None,
    debug: Debug = False,
) -> None:
    """Run passes on IR text; the times go to standard error."""
    sys.excepthook = _explain(debug)
    names = [p for p in passes.split(",") if p]
    request = OptRequest(names, after_all, verify_each, why, fuel, device, numerics, locations, output)
    _usage(lambda: commands.opt(file, request))


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.ir...", help="IR text.")], debug: Debug = False
) -> None:
    """Parse and verify IR text."""
    sys.excepthook = _explain(debug)
    if not _usage(lambda: commands.check(files)):
        raise typer.Exit(1)


@app.command()
def ops(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of the language reference.")] = False,
) -> None:
    """List every op."""
    commands.list_ops(markdown)


@app.command()
def passes() -> None:
    """List every pass."""
    commands.list_passes()


@app.command()
def backends() -> None:
    """List every backend and what it can use."""
    commands.list_backends()


def _explain(debug: bool, code: int = 1) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """An exception hook: the message and the user's line, without internal frames unless ``debug``; then exit with ``code``."""
    if debug:
        os.environ[FULL] = "full"

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if debug:
            print(printable("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        elif isinstance(error, IRError):
            print(printable(f"error: {error}"), file=sys.stderr)
        else:
            frames = [f for f in _frames(trace) if f.line]
            where = f"{frames[-1].filename}:{frames[-1].lineno}\n    {frames[-1].line}\n" if frames else ""
            message = f"error: {where}{kind.__name__}: {error}\n  --debug shows where it was raised"
            print(printable(message), file=sys.stderr)
        if code != 1:
            raise SystemExit(code)

    return hook


def _frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames of a traceback that run the user's code."""
    walked = [
        (f, line)
        for f, line in traceback.walk_tb(trace)
        if not is_library(f) and f.f_globals.get("__name__") != "__main__"
    ]
    return list(traceback.StackSummary.extract(iter(walked)))


class OutputError(OSError):
    """Standard output does not take what was printed: its device is full, say."""


class _Output(io.FileIO):
    """Standard output, whose errors are told from those of other files."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from None


def _told_apart() -> None:
    """Make the process's standard output an ``_Output``."""
    if sys.stdout is sys.__stdout__:
        before: Any = sys.stdout
        raw = _Output(sys.stdout.fileno(), "wb", closefd=False)
        sys.stdout = io.TextIOWrapper(
            raw if before.write_through else io.BufferedWriter(raw),
            before.encoding,
            before.errors,
            line_buffering=before.line_buffering,
            write_through=before.write_through,
        )


def main() -> None:
    """Entry point of the ``irc`` script.  Output that cannot be written ends it with one line and exit code 1."""
    if sys.stderr is None:  # closed by the shell; print would write to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        print("error: standard output is closed; > /dev/null discards it", file=sys.stderr)
        raise SystemExit(1)
    arguments, rest = sys.argv[1:], list[str]()
    if "--" in arguments:
        at = arguments.index("--")
        arguments, rest = arguments[:at], arguments[at + 1 :]
    _told_apart()
    try:
        try:
            app(arguments, obj=rest)
        finally:
            sys.stdout.flush()
    except OutputError as error:
        # The rest goes nowhere, so that the interpreter's own flush at exit succeeds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # there the reader has what it wanted
            print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None
