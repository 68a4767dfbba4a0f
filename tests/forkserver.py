"""Start the commands that tests run as forks of a process that has imported the heavy libraries already.

Importing torch takes most of the time of a short command. `installed` changes how `subprocess` starts
`[sys.executable, "-m", <a module of ours or torchrun>, ...]`: a server process, which has imported the libraries and
has started no threads, forks, and the fork runs the module as `__main__`. Otherwise the process is like one that the
interpreter starts: it is a child of the caller, so that signals, exit codes and resource usage work as usual; it has
its own arguments, working directory, environment, standard streams, session, `sys.path` and random seeds. Processes
that a fork starts (ranks, loaders of data) are forks too, and so are those that `multiprocessing` starts by "spawn" or
"forkserver".

A fork differs from a new process in this: the hash seed, and the state of the imported libraries (logging handlers,
warning filters) come from the server, and nothing that an import prints is printed again. So each command is started
by the interpreter in one test at least (with the fixture `real_start`; torchrun and its ranks in `e2e/test_launch.py`),
and so is whatever tests look at imports.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import inspect
import json
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

LIBRARIES = [  # while they are imported, they read no environment variable but those of OF_LIBRARIES
    *("numpy", "torch", "torch._dynamo", "torch.distributed.run", "torch.distributed.fsdp", "scipy.signal"),
    *("soundfile", "soxr", "jaxtyping", "omegaconf", "hydra", "tqdm", "rapidfuzz", "psutil", "yaml"),
]
WITH_HUB = [  # while they are imported, they or what they import read the variables of OF_HUB
    *("huggingface_hub", "datasets", "accelerate", "ema_pytorch", "safetensors.torch", "pypinyin", "rjieba"),
    *("torch.utils.tensorboard", "f5_tts.api", "f5_tts.train.train", "f5_tts.train.train_rl", "f5_tts.scripts.doctor"),
]
OF_HUB = ("HF_", "HUGGING", "TRANSFORMERS", "XDG_", "DATASETS", "HOME")
OF_LIBRARIES = (
    *("LC_", "LANG", "TZ", "LD_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "MALLOC_", "TORCH", "PYTORCH", "CUDA"),
    *("PYTHONHASHSEED", "PYTHONDEVMODE", "PYTHONWARNINGS", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONOPTIMIZE"),
)
READ_LATER = (  # torch reads them when ranks find each other, or asks for a GPU; set by torchrun, libraries, the guide
    *("TORCHELASTIC_", "TORCH_NCCL_", "TORCHINDUCTOR_CACHE_DIR", "PYTORCH_ENABLE_MPS_FALLBACK"),
    *("CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK"),
)
OURS = ("f5_tts.", "tests.", "recipes.", "torch.distributed.run", "accelerate.commands.launch")
WITHOUT_TORCH = ("f5_tts.scripts.fetch", "f5_tts.rewards.asr.pocketsphinx_worker")
OF_MULTIPROCESSING = ("from multiprocessing.spawn import", "from multiprocessing.forkserver import")
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # by stand-ins
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # by servers, which end with their sockets
FORK = "F5_TTS_TESTS_FORK"  # variable that is 0 for a process that the interpreter is to start
MORE = "F5_TTS_TESTS_IMPORT"  # variable with modules that a launcher's server imports, besides, for its ranks
SET_CHILD_SUBREAPER = 36  # of <linux/prctl.h>
Request = dict[str, Any]


# --- the process that starts others ---


class Servers:
    """Fork servers of this process: one with all libraries, and one without those that read where the hub's cache is.

    Args:
        environment: the variables that the servers' libraries see while they are imported.
        doors: sockets of servers that run already, by whether they have all libraries.
        scripts: whether files are started by a fork, too.
    """

    def __init__(self, environment: Mapping[str, str], doors: dict[bool, socket.socket], scripts: bool = False) -> None:
        self.environment = dict(environment)
        self.doors = doors
        self.scripts = scripts
        self.lock = threading.Lock()
        self.listeners: list[socket.socket] = []

    def request(self, given: Mapping[str, Any]) -> Request | None:
        """Return what to ask a server for, or None where the interpreter must be started.

        Args:
            given: the arguments of `Popen._execute_child`, by name.
        """
        if given["preexec_fn"] or given["shell"] or given["pass_fds"] or isinstance(given["args"], str | bytes):
            return None
        if given["executable"] not in (None, sys.executable):
            return None
        if any(given.get(name, -1) not in (None, -1) for name in ("uid", "gid", "gids", "umask", "process_group")):
            return None
        environment = os.environ if given["env"] is None else given["env"]
        cwd, session = os.fspath(given["cwd"] or str(Path.cwd())), bool(given["start_new_session"])
        return self.request_of([os.fspath(word) for word in given["args"]], environment, cwd, session)

    def request_of(self, command: list[str], environment: Mapping[str, str], cwd: str, session: bool) -> Request | None:
        interpreter, *words = command
        options = [word for word in words[:2] if word in ("-u", "-B")]
        words = words[len(options) :]
        fits = self.fits(environment) and Path(cwd).is_dir()
        if interpreter != sys.executable or not self.is_ours(words) or not fits:
            return None
        return {
            "words": words,
            "unbuffered": "-u" in options or bool(environment.get("PYTHONUNBUFFERED")),
            "cwd": os.path.realpath(cwd),
            "environment": dict(environment),
            "session": session,
            "ignored": [int(number) for number in IGNORED if signal.getsignal(number) == signal.SIG_IGN],
            "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        }

    def is_ours(self, words: list[str]) -> bool:
        if len(words) < 2 or words[0] not in ("-m", "-c"):
            return self.scripts and words[:1] != [] and words[0].endswith(".py")
        if words[0] == "-c":
            return words[1].startswith(OF_MULTIPROCESSING)
        return words[1].startswith(OURS) and not words[1].startswith(WITHOUT_TORCH)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Check whether the servers' libraries would have read the same in this environment, and a fork is wanted."""
        return environment.get(FORK) != "0" and chosen(environment, OF_LIBRARIES) == chosen(
            self.environment, OF_LIBRARIES
        )

    def start(self, request: Request, files: dict[int, int]) -> int:
        """Return the process ID of a new child of this process, which has these files of ours under these numbers."""
        request = request | {"numbers": list(files)}
        with self.lock, adopt_orphans():
            return ask(self.door(self.has_all(request)), request, list(files.values()))

    def has_all(self, request: Request) -> bool:
        """Check whether the server with all libraries fits the environment of a request."""
        return chosen(request["environment"], OF_HUB) == chosen(self.environment, OF_HUB)

    def door(self, hub: bool) -> socket.socket:
        """Return the socket of a server, which is started when it is first asked for."""
        if hub not in self.doors:
            self.doors[hub], theirs = socket.socketpair()
            with theirs:
                if hub:
                    ask(self.door(False), {"import": WITH_HUB}, [theirs.fileno()])
                else:
                    start_server(self.environment, theirs)
        return self.doors[hub]

    def close(self) -> None:
        for door in [*self.doors.values(), *self.listeners]:
            door.close()

    def write_interpreter(self, path: Path) -> None:
        """Write a program that shell scripts use as the interpreter; it asks these servers, too."""
        addresses = {hub: str(path.with_suffix(suffix)) for hub, suffix in ((True, ".hub"), (False, ".none"))}
        for hub, address in addresses.items():
            ours, theirs = socket.socketpair()
            with theirs, socket.socket(socket.AF_UNIX) as listening:
                listening.bind(address)
                listening.listen()
                with self.lock, adopt_orphans():
                    ask(self.door(hub), {"listen": True}, [listening.fileno(), theirs.fileno()])
            self.listeners.append(ours)
        settings = {"interpreter": sys.executable, "environment": self.environment, "addresses": addresses}
        lines = [f"#!{sys.executable} -IS", "import sys", f"sys.path.insert(0, {str(Path(__file__).parent)!r})"]
        lines += ["import forkserver", f"forkserver.stand_in(**{settings!r})"]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)


def stand_in(interpreter: str, environment: dict[str, str], addresses: dict[bool, str]) -> None:
    """Let a server start what the interpreter is asked to; pass signals on, and end as the fork ends."""
    sys.executable = interpreter
    servers = Servers(environment, {})
    request = servers.request_of([interpreter, *sys.argv[1:]], os.environ, str(Path.cwd()), session=False)
    if request is None:
        os.execv(interpreter, [interpreter, *sys.argv[1:]])
    door = socket.socket(socket.AF_UNIX)
    door.connect(addresses[servers.has_all(request)])
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: door.sendall(bytes([number])))
    code = ask(door, request | {"numbers": [0, 1, 2]}, [0, 1, 2])
    os._exit(code) if code < 256 else end_by(code - 256)


def end_by(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(1)


def chosen(environment: Mapping[str, str], beginnings: tuple[str, ...]) -> dict[str, str]:
    found = {name: value for name, value in environment.items() if name.startswith(beginnings)}
    return {name: value for name, value in found.items() if not name.startswith(READ_LATER)}


def start_server(environment: Mapping[str, str], door: socket.socket) -> None:
    """Start a server from the interpreter; it ends when the other end of its socket is closed."""
    own = {name: value for name, value in environment.items() if name not in ("PYTHONPATH", "PYTHONUNBUFFERED")}
    command = [sys.executable, __file__, str(door.fileno()), environment.get("PYTHONPATH", "")]
    subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, pass_fds=[door.fileno()])


def ask(door: socket.socket, request: Request, files: list[int]) -> int:
    """Send a request with these files; return the process ID of the fork."""
    data = json.dumps(request).encode()
    socket.send_fds(door, [len(data).to_bytes(8, "little")], files)
    door.sendall(data)
    return int.from_bytes(receive(door, 8), "little")


def receive(door: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = door.recv(size - len(data))
        if not piece:
            raise EOFError("the fork server has ended")
        data += piece
    return data


@contextlib.contextmanager
def adopt_orphans() -> Iterator[None]:
    """Become the parent of descendants whose parent ends meanwhile."""
    prctl = ctypes.CDLL(None).prctl
    prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextlib.contextmanager
def installed(servers: Servers) -> Iterator[None]:
    """Let `subprocess` start processes by these servers, where they can."""
    by_interpreter: Any = subprocess.Popen._execute_child  # pyright: ignore[reportAttributeAccessIssue]
    signature, spawn_by_interpreter = inspect.signature(by_interpreter), multiprocessing.util.spawnv_passfds

    def execute_child(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        request = servers.request(given)
        if request is None:
            by_interpreter(self, *args, **kwargs)
            return
        ends = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        try:
            self.pid = servers.start(request, {number: number if end == -1 else end for number, end in enumerate(ends)})
            self._child_created = True
        finally:
            names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(given[name] for name in names))

    def spawn(path: Any, args: Sequence[str | bytes], passfds: Sequence[int]) -> int:
        command = [os.fsdecode(word) for word in args]
        request = servers.request_of(command, os.environ, str(Path.cwd()), session=False)
        files = {int(file): int(file) for file in (0, 1, 2, *passfds)}
        return spawn_by_interpreter(path, args, passfds) if request is None else servers.start(request, files)

    subprocess.Popen._execute_child = execute_child  # pyright: ignore[reportAttributeAccessIssue]
    multiprocessing.util.spawnv_passfds = spawn
    try:
        yield
    finally:
        subprocess.Popen._execute_child = by_interpreter  # pyright: ignore[reportAttributeAccessIssue]
        multiprocessing.util.spawnv_passfds = spawn_by_interpreter
        servers.close()


# --- the server ---


def serve(door: socket.socket) -> tuple[Request, list[int]]:
    """Fork at each request, and return it and its files in the fork; the server ends when nobody can ask any more."""
    while True:
        header, files, _, _ = socket.recv_fds(door, 8, 32)
        if not header:
            os._exit(0)
        header += receive(door, 8 - len(header))
        request = json.loads(receive(door, int.from_bytes(header, "little")))
        child = fork_orphan()
        if child == 0:
            door.close()
            return request, files
        for file in files:
            os.close(file)
        door.sendall(child.to_bytes(8, "little"))


def serve_stand_ins(listening: socket.socket, alive: socket.socket) -> tuple[Request, list[int]]:
    """Fork for each program of `write_interpreter`, as `serve` does, until the other end of `alive` is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of those who wait for the forks
    while True:
        if alive in select.select([listening, alive], [], [])[0]:
            os._exit(0)
        door = listening.accept()[0]
        if os.fork():
            door.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        header, files, _, _ = socket.recv_fds(door, 8, 3)
        request = json.loads(receive(door, int.from_bytes(header, "little")))
        child = os.fork()
        if child == 0:
            for each in (door, listening, alive):
                each.close()
            return request, files
        for file in files:
            os.close(file)
        wait_for(child, door)


def wait_for(child: int, door: socket.socket) -> NoReturn:
    """Pass signals on to the fork and its end back; without anybody to pass it to the fork is killed."""
    ended = os.pidfd_open(child)
    while ended not in (ready := select.select([door, ended], [], [])[0]):
        number = door.recv(1) if ready else b""
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    door.sendall((code if code >= 0 else 256 - code).to_bytes(8, "little"))
    os._exit(0)


def fork_orphan() -> int:
    """Fork as `os.fork` does; the child's parent is the nearest ancestor that adopts orphans."""
    reading, writing = os.pipe()
    between = os.fork()
    if between:
        os.close(writing)
        child = int.from_bytes(os.read(reading, 8), "little")
        os.close(reading)
        os.waitpid(between, 0)
        return child
    parent = os.getpid()
    child = os.fork()
    if child:
        os.write(writing, child.to_bytes(8, "little"))
        os._exit(0)
    os.close(reading)
    os.close(writing)
    while os.getppid() == parent:
        time.sleep(0.0002)
    return 0


def import_all(names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if "torch.distributed.run" in names:  # it looks through all modules to name each of its steps in a log
        sys.modules["torch.distributed.elastic.rendezvous.dynamic_rendezvous"].get_method_name = lambda depth=2: "step"  # type: ignore[attr-defined]
    gc.collect()
    gc.freeze()  # else a collection in a fork copies every page


def become(request: Request, files: list[int]) -> None:
    """Give this fork what a new process has that is started with the request."""
    apart = [fcntl.fcntl(file, fcntl.F_DUPFD, 100) for file in files]  # above all numbers that are asked for
    for file, number in zip(apart, request["numbers"], strict=True):
        os.dup2(file, number)
    for file in {*files, *apart} - set(request["numbers"]):
        os.close(file)
    if request["session"]:
        os.setsid()
    for number in IGNORED:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else default)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])  # the server's is that of whoever started it
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True if request["unbuffered"] else stream.line_buffering or stream.isatty())  # type: ignore[union-attr]
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # the module `random` sees to this itself
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


def fork_server(scripts: bool) -> Servers | socket.socket:
    """Fork a server for the children of this process; return what asks it, and in the server itself its socket."""
    import_all(os.environ.get(MORE, "").split())
    asking, answering = socket.socketpair()
    if os.fork():
        answering.close()
        return Servers(os.environ, {False: asking, True: asking}, scripts)
    asking.close()
    devnull = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(devnull, number)
    os.close(devnull)
    return answering


def run(request: Request, libraries_path: list[str]) -> None:
    """Run the module or file that was asked for as `__main__`."""
    words = request["words"]
    is_file = words[0] not in ("-m", "-c")
    first = str(Path(request["cwd"], words[0]).parent) if is_file else request["cwd"]
    sys.path[:] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *libraries_path]
    sys.orig_argv[1:] = words
    sys.argv[:] = words if is_file else [words[0], *words[2:]]
    sys.modules["__main__"] = main = ModuleType("__main__")
    if is_file:
        runpy.run_path(words[0], run_name="__main__")
    elif words[0] == "-c":
        exec(words[1], main.__dict__)
    else:
        sys.modules.pop(words[1], None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)


def run_and_exit(request: Request, libraries_path: list[str]) -> NoReturn:
    """End as the interpreter does, but for the destruction of modules, which would copy nearly all pages of the server.

    A fork that is interrupted dies by SIGINT, as its parent expects.
    """
    code, interrupted = 0, False
    try:
        run(request, libraries_path)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if code == 1 and end.code != 1:
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]: waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def main() -> None:
    """Serve, and run in forks what is asked for."""
    door, path = socket.socket(fileno=int(sys.argv[1])), sys.path[1:]
    sys.path[:] = [*filter(None, sys.argv[2].split(os.pathsep)), *path]
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    import_all(LIBRARIES)
    while True:
        request, files = serve(door)
        if "import" in request:
            door = socket.socket(fileno=files[0])
            import_all(request["import"])
            continue
        if "listen" in request:
            request, files = serve_stand_ins(*(socket.socket(fileno=file) for file in files))
        become(request, files)
        if request["words"][0] == "-c":
            run_and_exit(request, path)
        servers = fork_server(scripts=True)
        if isinstance(servers, Servers):
            with installed(servers):
                run_and_exit(request, path)
        door = servers


if __name__ == "__main__":
    main()
