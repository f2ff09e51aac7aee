"""The jobs page: rq-dashboard 0.9.0 behind a login, served by waitress.

rq-dashboard has no login by default, requeues all failed jobs of a queue on a plain GET, unpickles unverified results,
and its templates put text of jobs into the page as HTML. This module adds:

- Templates of its own, in which Jinja escapes all text, and a Content-Security-Policy that allows no script at all.
- A login for everything but the login page and `/health` (see `rqstack.api.login`). The session cookie is HttpOnly and
  SameSite=Strict, so other sites cannot use it in links, images or forms.
- CSRF protection: changes need a POST from the page itself. A GET (a prefetch, a crawler) gets 405, a POST from another
  origin 403.
- The stack's serializer: results are unpickled only after their signature is verified, whatever workers accept.
- Redis ACL credentials, and one client for all threads (rq-dashboard opens one per request).
"""

from __future__ import annotations

import json
import logging
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rqstack.api.login import SESSION_HOURS, require_login
from rqstack.errors import PayloadRejected, SettingsError
from rqstack.processes.logs import TextFormatter
from rqstack.settings import Settings, StackSettings, load

if TYPE_CHECKING:
    from flask import Flask
    from redis import Redis
    from werkzeug.wrappers import Response

log = logging.getLogger(__name__)

THREADS = 8
REGISTRIES = ("queued", "scheduled", "deferred", "started", "finished", "failed", "canceled")
_MOST_PER_PAGE = 200
_MOST_SHOWN = 20_000
"""Characters of a text that are shown."""


def create_app(settings: Settings | None = None, stack: StackSettings | None = None) -> Flask:
    """Make the WSGI application. It starts without Redis.

    Args:
        settings: Default: loaded from the environment.
        stack: Holds the login. Default: loaded from the environment.

    Raises:
        SettingsError: DASHBOARD_PASSWORD is not set.
    """
    from flask import Flask
    from rq_dashboard import default_settings
    from rq_dashboard.web import blueprint

    from rqstack.security.rq_records import guard_client, guard_rq
    from rqstack.transport.client import connect, safe_url

    settings = settings or load(Settings)
    stack = stack or load(StackSettings)
    password = dashboard_password(stack)
    # Templates of the application come before those of the blueprint with the same names.
    app = Flask(
        "rqstack.jobs_page",
        static_folder=blueprint.static_folder,
        template_folder=str(Path(__file__).parent / "templates"),
    )
    app.config.from_object(default_settings)
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),  # random per process: a restart ends all sessions
        # Browsers keep cookies by host, whatever the port: a page of another stack would end this one's sessions.
        SESSION_COOKIE_NAME=f"rqstack_jobs_{stack.dashboard_port}",
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=SESSION_HOURS * 3600,
        MAX_CONTENT_LENGTH=64 * 1024,
        RQ_DASHBOARD_REDIS_URL=[safe_url(settings.redis_url)],
        RQ_DASHBOARD_DISABLE_DELETE=False,
        DEPRECATED_OPTIONS=[],
    )
    app.json.default = repr  # type: ignore[attr-defined]  # results may be any object
    guard_rq()
    client = guard_client(connect(settings, socket_timeout=30))
    _adapt_rq_dashboard(app, client, settings)
    require_login(app, stack.dashboard_username, password)
    _check_addresses(app)
    _set_headers(app)
    _answer_forms(app)
    _handle_errors(app, settings)
    _give_data(app)
    app.register_blueprint(blueprint)

    @app.route("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def dashboard_password(stack: StackSettings) -> str:
    """The password of the page.

    Raises:
        SettingsError: It is not set.
    """
    password = stack.dashboard_password.get_secret_value() if stack.dashboard_password else ""
    if not password:
        raise SettingsError("DASHBOARD_PASSWORD is not set, and the jobs page needs it for its login. Set it in .env.")
    return password


def _adapt_rq_dashboard(app: Flask, client: Redis, settings: Settings) -> None:
    """Make rq-dashboard use the stack's Redis client and serializer.

    It has no option for either. It makes clients from a URL and drops its user name, and it passes no serializer to RQ,
    so RQ's default serializer must be patched.
    """
    from rq.job import Job
    from rq.serializers import DefaultSerializer
    from rq_dashboard import web

    from rqstack.api.damaged_records import guard_rq_dashboard
    from rqstack.security import get_job_serializer

    # Workers may read unsigned payloads, which run code when they are read. Here nothing needs them.
    serializer = get_job_serializer(settings, allow_unsigned=False)
    is_unchecked = settings.serializer == "pickle" and not settings.secret_keys()

    def loads(data: bytes) -> Any:
        try:
            if is_unchecked:
                raise PayloadRejected("it is not signed, because RQSTACK_SECRET_KEY is not set")
            return serializer.loads(data)
        except Exception as error:  # a class of a task project that is not installed here, or a forged payload
            return f"(cannot be shown: {type(error).__name__}: {error})"

    def current_job(job: Any) -> Any:
        # rq-dashboard's version unpickles the arguments, which the page does not show.
        if job is None:
            return "idle"
        return {
            "job_id": job.id,
            "description": job.description,
            "created_at": web.serialize_date(job.created_at),
            "call_string": job.description,
        }

    class EncodedId(str):
        """RQ 3 gives text where rq-dashboard decodes bytes."""

        def decode(self, encoding: str) -> str:
            return str(self)

    guard_rq_dashboard()
    job_class: Any = Job
    dependency_ids = job_class.dependency_ids.fget
    job_class.dependency_ids = property(lambda job: [EncodedId(each) for each in dependency_ids(job)])
    DefaultSerializer.loads = staticmethod(loads)
    DefaultSerializer.dumps = staticmethod(serializer.dumps)
    web.serialize_current_job = current_job
    web.from_url = lambda *args, **kwargs: (None, client)
    app.redis_conn = client  # type: ignore[attr-defined]


def _check_addresses(app: Flask) -> None:
    """Answer 404 to addresses that rq-dashboard fails on."""
    from flask import abort, request
    from rq.job import validate_job_id

    @app.before_request
    def check() -> None:
        given = request.view_args or {}
        number = {name: str(given.get(name, 1)) for name in ("per_page", "page")}
        if (
            given.get("instance_number", 0) != 0
            or given.get("registry_name", "queued") not in REGISTRIES
            or given.get("order", "asc") not in ("asc", "dsc")
            or not all(text.isascii() and text.isdecimal() and int(text[:9]) > 0 for text in number.values())
            or len(number["page"]) > 9
            or int(number["per_page"][:9]) > _MOST_PER_PAGE
        ):
            abort(404)
        try:
            validate_job_id(given.get("job_id", "none"))
        except ValueError:
            abort(404)


def _set_headers(app: Flask) -> None:
    from flask import g

    def nonce() -> str:
        if "nonce" not in g:
            g.nonce = secrets.token_urlsafe(16)
        return str(g.nonce)

    app.jinja_env.globals["nonce"] = nonce

    @app.after_request
    def headers(response: Response) -> Response:
        policy = {
            "default-src": "'none'",
            "style-src": f"'self' 'nonce-{nonce()}'",
            "img-src": "'self'",
            "form-action": "'self'",
            "base-uri": "'none'",
            "frame-ancestors": "'none'",
        }
        response.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in policy.items())
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _answer_forms(app: Flask) -> None:
    """Send a person who has pressed a button back to a page, where rq-dashboard answers with JSON."""
    from flask import redirect, request

    @app.after_request
    def back(response: Response) -> Response:
        target = request.form.get("back", "") if request.method == "POST" and response.status_code == 200 else ""
        if target.startswith("/") and not target.startswith(("//", "/\\")):
            return redirect(target, 303)
        return response


def _handle_errors(app: Flask, settings: Settings) -> None:
    from redis.exceptions import RedisError
    from rq.exceptions import InvalidJobOperation, NoSuchJobError

    from rqstack.transport.client import explain

    def answer(text: str, status: int) -> tuple[str, int, dict[str, str]]:
        return text, status, {"Content-Type": "text/plain; charset=utf-8"}

    @app.errorhandler(RedisError)
    def redis_failed(error: RedisError) -> Any:
        return answer(str(explain(error, settings.redis_url)), 503)

    @app.errorhandler(NoSuchJobError)
    def no_job(error: NoSuchJobError) -> Any:
        return answer("There is no such job: it never existed, or has expired or been deleted.", 404)

    @app.errorhandler(InvalidJobOperation)
    def refused(error: InvalidJobOperation) -> Any:
        return answer("The job's status has changed, so this is not possible any more.", 409)


def _give_data(app: Flask) -> None:
    """Give the templates what rq-dashboard's own scripts fetch as JSON."""
    from rq_dashboard import web

    @app.context_processor
    def data() -> dict[str, Any]:
        return {
            "registries": REGISTRIES,
            "list_queues": lambda: web.list_queues.__wrapped__(0)["queues"],
            "list_workers": lambda: web.list_workers.__wrapped__(0)["workers"],
            "list_jobs": lambda *which: web.list_jobs.__wrapped__(0, *which),
            "job_info": lambda job_id: web.job_info.__wrapped__(0, job_id),
            "shortened": shortened,
            "as_text": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=repr),
        }


def shortened(text: Any) -> str:
    """A text as it is shown: not longer than a person reads."""
    text = "" if text is None else str(text)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} … ({len(text)} characters)"


def serve(host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serve the page until SIGTERM or SIGINT.

    Args:
        port: Default: DASHBOARD_PORT.

    Raises:
        SettingsError: DASHBOARD_PASSWORD is not set, a setting is invalid, or the port is in use.
    """
    import waitress

    port = port or load(StackSettings).dashboard_port
    app = create_app()
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        server = waitress.create_server(app, host=host, port=port, threads=THREADS, ident=None)
    except OSError as error:
        raise SettingsError(
            f"DASHBOARD_PORT: cannot listen on {host}:{port}: {error.strerror}. Choose another port."
        ) from error
    log.info("Serving the jobs page on http://%s:%d/", host, port)
    server.run()
