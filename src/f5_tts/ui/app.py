"""Web page over the commands: speak, make a data set, start and watch runs, compare two checkpoints blind."""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jinja2

from f5_tts.config.yaml_files import config_names
from f5_tts.data.formats import FORMATS
from f5_tts.data.tokenizer import TOKENIZERS
from f5_tts.extras import install_hint
from f5_tts.report.curves import alarms_of, curve_groups
from f5_tts.report.metric_rows import metric_rows
from f5_tts.ui import orders
from f5_tts.ui.folder import SHOWN, STATE, Folder
from f5_tts.ui.jobs import Job, Jobs

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_UPLOAD = 25_000_000  # bytes of a request
MAX_VOICES = 3
ANSWERS = "preferences.jsonl"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "f5-tts-token"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, forms of this page would name no origin
    "Cache-Control": "no-store",
}


@lru_cache
def environment() -> jinja2.Environment:
    """Load the templates of the page, and the style sheets of the report, which it shares."""
    folders = [jinja2.PackageLoader("f5_tts.ui", "page"), jinja2.PackageLoader("f5_tts.report", "page")]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


@dataclass(frozen=True)
class Page:
    """Answers of the page; all that it knows is in the folder, so that two browsers share nothing else."""

    folder: Folder
    jobs: Jobs

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Render a template."""
        from starlette.responses import HTMLResponse

        html = environment().get_template(template).render(place=template, max_voices=MAX_VOICES, **values)
        return HTMLResponse(html, status_code=status)

    def error(self, message: str, status: int = 400) -> Response:
        """Say what was wrong."""
        return self.render("error.html", status, message=message)

    # --- speak and compare ---

    async def speak(self, request: Request) -> Response:
        """Show the form, or start to speak."""
        if request.method == "GET":
            return self.render("speak.html", **self.choices())
        fields = await read_form(request)
        voices = await self.voices(fields)
        model = orders.model_flags(self.folder, text_of(fields, "checkpoint"), text_of(fields, "config"))
        name = self.jobs.new_name()
        out = self.jobs.folder / name
        command = orders.speak(self.folder, model, voices, text_of(fields, "text"), out, "speech.wav")
        order = {"kind": "speech", "title": text_of(fields, "text"), "clips": ["speech.wav"]}
        return redirect(f"/jobs/{self.jobs.start(self.folder.root, [command], order, name).id}")

    async def compare(self, request: Request) -> Response:
        """Show the form, or let two checkpoints speak the same text, in an order that is not shown."""
        if request.method == "GET":
            return self.render("compare.html", **self.choices())
        fields = await read_form(request)
        voices = await self.voices(fields)
        pair = [text_of(fields, "checkpoint"), text_of(fields, "other")]
        if pair[0] == pair[1]:
            raise ValueError("choose two different checkpoints")
        random.SystemRandom().shuffle(pair)
        name, text = self.jobs.new_name(), text_of(fields, "text")
        out, config = self.jobs.folder / name, text_of(fields, "config")
        commands = [
            orders.speak(self.folder, orders.model_flags(self.folder, path, config), voices, text, out, f"{side}.wav")
            for side, path in zip("ab", pair, strict=True)
        ]
        order = {"kind": "comparison", "title": text, "clips": ["a.wav", "b.wav"], "models": pair}
        order |= {"prompt": voices[0][1], "prompt_text": voices[0][2]}
        return redirect(f"/jobs/{self.jobs.start(self.folder.root, commands, order, name).id}")

    async def answer(self, request: Request) -> Response:
        """Keep the answer of a blind comparison, once, and then show which model was which."""
        job, fields = self.jobs.find(request.path_params["job"]), await read_form(request)
        order, choice = job.order, orders.one_of(text_of(fields, "answer"), ("a", "b", "tie"), "answer")
        if order["kind"] != "comparison" or job.state != "done" or (job.folder / "answer").is_file():
            raise ValueError("this comparison has an answer already, or none is due")
        (job.folder / "answer").write_text(choice, encoding="utf-8")
        record = preference(job, order, choice, self.folder.root)
        with (self.folder.root / ANSWERS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        return redirect(f"/jobs/{job.id}")

    def choices(self) -> dict[str, Any]:
        """Return what the forms offer."""
        return {
            "checkpoints": self.folder.checkpoints(),
            "configs": config_names(),
            "recordings": self.folder.recordings(),
            "data_sets": self.folder.data_sets(),
        }

    async def voices(self, fields: Mapping[str, Any]) -> list[orders.Voice]:
        """Return the voices of a form, whose recordings are kept."""
        found = []
        for number in range(MAX_VOICES):
            upload = fields.get(f"recording_{number}")
            if upload is None or isinstance(upload, str) or not upload.filename:
                continue
            path = self.folder.save_upload(upload.filename, await upload.read())
            found.append((text_of(fields, f"voice_{number}") or "main", path, text_of(fields, f"said_{number}")))
        return found

    # --- data sets and runs ---

    async def data(self, request: Request) -> Response:
        """Show the form, or start to make a data set."""
        if request.method == "GET":
            return self.render("data.html", tokenizers=TOKENIZERS, layouts=list(FORMATS), **self.choices())
        fields = {name: str(value) for name, value in (await read_form(request)).items()}
        names = ("source", "name", "tokenizer", "layout")
        commands = orders.prepare(self.folder, *(fields.get(name, "") for name in names))
        return self.start(commands, "data", f"data set {fields['name']}")

    async def train(self, request: Request) -> Response:
        """Show the form, or start a run."""
        if request.method == "GET":
            command = request.query_params.get("command", "train-rl")
            fields = orders.key_fields(orders.one_of(command, list(orders.KEYS), "command"))
            values = {**self.choices(), "configs": orders.configs_of(command)}
            return self.render("train.html", command=command, fields=fields, **values)
        fields = {name: str(value) for name, value in (await read_form(request)).items()}
        command = orders.run(self.folder, fields.get("command", ""), fields)
        return self.start([command], "run", f"run {fields['name']}", run=f"ckpts/{fields['name']}")

    def start(self, commands: list[orders.Command], kind: str, title: str, **more: Any) -> Response:
        """Start commands and show their job."""
        order = {"kind": kind, "title": title, "clips": [], **more}
        return redirect(f"/jobs/{self.jobs.start(self.folder.root, commands, order).id}")

    async def runs(self, request: Request) -> Response:
        """List runs and jobs."""
        return self.render(
            "runs.html", runs=self.folder.runs(), jobs=[(job.id, job.order, job.state) for job in self.jobs.all()]
        )

    async def run(self, request: Request) -> Response:
        """Show a run; its changing part alone with `?part`."""
        name = request.path_params["name"]
        job = next((job for job in self.jobs.all() if job.order.get("run") == name), None)
        folder = self.folder.existing(name) if job is None else self.folder.inside(name)  # a job makes it later
        rows = metric_rows(folder / "metrics.jsonl")
        samples = sorted((folder / "samples").glob("*.wav"), key=lambda path: -path.stat().st_mtime)[:6]
        values = {
            "name": name,
            "job": job,
            "update": rows[-1]["update"] if rows else None,
            "curves": curve_groups({folder.name: rows}) if rows else [],
            "alarms": alarms_of({folder.name: rows}),
            "samples": [path.relative_to(self.folder.root.resolve()).as_posix() for path in samples],
            "report": f"{name}/report.html" if (folder / "report.html").is_file() else "",
        }
        return self.render("run_part.html" if "part" in request.query_params else "run.html", **values)

    async def job(self, request: Request) -> Response:
        """Show a job; its changing part alone with `?part`."""
        job = self.jobs.find(request.path_params["job"])
        given = job.folder / "answer"
        values = {
            "job": job,
            "order": job.order,
            "state": job.state,
            "hides": job.order["kind"] == "comparison" and not given.is_file(),
            "answer": given.read_text(encoding="utf-8") if given.is_file() else "",
            "clips": [name for name in job.order["clips"] if job.state == "done"],
        }
        return self.render("job_part.html" if "part" in request.query_params else "job.html", **values)

    async def stop(self, request: Request) -> Response:
        """Interrupt a job."""
        job = self.jobs.find(request.path_params["job"])
        job.stop()
        return redirect(f"/jobs/{job.id}")

    # --- files ---

    async def clip(self, request: Request) -> Response:
        """Send a clip of a job."""
        from starlette.responses import FileResponse

        job = self.jobs.find(request.path_params["job"])
        return FileResponse(job.folder / orders.one_of(request.path_params["clip"], job.order["clips"], "clip"))

    async def file(self, request: Request) -> Response:
        """Send a recording or a report of the folder."""
        from starlette.responses import FileResponse

        path = self.folder.existing(request.path_params["name"])
        if path.suffix not in SHOWN or not path.is_file():
            raise ValueError(f"{request.path_params['name']} is no recording and no report")
        response = FileResponse(path)
        if path.suffix == ".html":  # of a report, which has its own policy; a sandbox, because anything may lie there
            response.headers["Content-Security-Policy"] = "sandbox allow-scripts allow-downloads"
        return response

    async def asset(self, request: Request) -> Response:
        """Send style sheet or script."""
        from starlette.responses import Response

        name = orders.one_of(request.path_params["name"], ("ui.css", "ui.js"), "file")
        kind = "text/css" if name.endswith("css") else "text/javascript"
        return Response(environment().get_template(name).render(), media_type=kind)


def preference(job: Job, order: Mapping[str, Any], choice: str, root: Path) -> dict[str, Any]:
    """Return the line of an answer, as docs/report.md has it; paths are relative to the folder of the page."""
    clips = [(job.folder / name).relative_to(root).as_posix() for name in order["clips"]]
    models = list(order["models"])
    record = {"id": job.id, "prompt": order["prompt"], "prompt_text": order["prompt_text"], "text": order["title"]}
    if choice == "tie":
        return {**record, "chosen": None, "rejected": None, "tie": clips, "models": models}
    best = "ab".index(choice)
    return {**record, "chosen": clips[best], "rejected": clips[1 - best], "models": [models[best], models[1 - best]]}


async def read_form(request: Request) -> Mapping[str, Any]:
    """Read a form."""
    return await request.form(max_files=MAX_VOICES, max_fields=60)


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """Return a field as text; empty where it is missing."""
    value = fields.get(name, "")
    return value.strip() if isinstance(value, str) else ""


def redirect(place: str) -> Response:
    """Send the browser to another page."""
    from starlette.responses import RedirectResponse

    return RedirectResponse(place, status_code=303)


# --- who may ask ---


Handler = Callable[["Request"], Awaitable["Response"]]


def refusal(request: Request, hosts: tuple[str, ...] | None, token: str) -> tuple[str, int] | None:
    """Return why a request is refused, and its status.

    Args:
        hosts: names that the page may be asked by, so that no other site's name can lead here; None: any.
        token: what a request must know; empty on loopback.
    """
    host = urlsplit(f"//{request.headers.get('host', '')}")
    if hosts is not None and host.hostname not in hosts:
        return "this page is not known by that name", 403
    known = request.query_params.get("token") or request.cookies.get(COOKIE, "")
    if token and not hmac.compare_digest(known.encode(), token.encode()):
        return "this page needs the address with the token that the command printed", 403
    if request.method == "POST":
        if urlsplit(request.headers.get("origin", "")).netloc != host.netloc:
            return "a form of another site was sent here", 403
        if not request.headers.get("content-length", "").isdigit():
            return "the size of the request is not known", 411
        if int(request.headers["content-length"]) > MAX_UPLOAD:
            return f"a request has at most {MAX_UPLOAD // 1_000_000} MB", 413
    return None


def build_app(root: Path, token: str = "", hosts: tuple[str, ...] | None = LOOPBACK) -> Starlette:
    """Build the application over a folder; raise ImportError with the command that installs the libraries."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.base import BaseHTTPMiddleware
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError(f"the page needs Starlette; run: {install_hint('starlette')}") from error
    page = Page(Folder(root), Jobs(root / STATE / "jobs"))

    async def guard(request: Request, handle: Handler) -> Response:
        refused = refusal(request, hosts, token)
        response = page.error(*refused) if refused else await handle(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if token and not refused:
            response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return response

    async def wrong(request: Request, error: Exception) -> Response:
        return page.error(str(error))

    both = ["GET", "POST"]
    return Starlette(
        routes=[
            Route("/", page.speak, methods=both),
            Route("/compare", page.compare, methods=both),
            Route("/data", page.data, methods=both),
            Route("/train", page.train, methods=both),
            Route("/runs", page.runs),
            Route("/runs/{name:path}", page.run),
            Route("/jobs/{job}", page.job),
            Route("/jobs/{job}/stop", page.stop, methods=["POST"]),
            Route("/jobs/{job}/answer", page.answer, methods=["POST"]),
            Route("/jobs/{job}/{clip}", page.clip),
            Route("/files/{name:path}", page.file),
            Route("/assets/{name}", page.asset),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={ValueError: wrong, OSError: wrong},
    )
