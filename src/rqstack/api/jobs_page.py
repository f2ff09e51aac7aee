"""The jobs page: rq-dashboard 0.9.0 behind a login, served by waitress.

rq-dashboard has no login by default, requeues all failed jobs of a queue on a plain GET, and unpickles unverified
results. This module adds:

- A login for everything but the login page and `/health`. The session cookie is HttpOnly and SameSite=Strict, so other
  sites cannot use it in links, images or forms.
- CSRF protection: changes need a POST from the page itself. A GET (a prefetch, a crawler) gets 405, a POST from another
  origin 403.
- The stack's serializer: results are unpickled only after their signature is verified.
- A limit of five login attempts per address and minute.
- Redis ACL credentials, and one client for all threads (rq-dashboard opens one per request).
"""

from __future__ import annotations

import hmac
import logging
import math
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rqstack.errors import SettingsError
from rqstack.settings import Settings, StackSettings, load

if TYPE_CHECKING:
    from flask import Flask
    from redis import Redis
    from werkzeug.wrappers import Response

PUBLIC_ENDPOINTS = {"login", "health"}

SESSION_HOURS = 12
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
THREADS = 8

_LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Jobs: log in</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; background: #f4f5f7; display: grid; place-items: center; height: 90vh }
form { background: #fff; padding: 2rem; border-radius: 8px; box-shadow: 0 1px 4px #0003; width: 18rem }
label, input, button { display: block; width: 100%; box-sizing: border-box; margin-bottom: .5rem; font: inherit }
input, button { padding: .5rem } h1 { font-size: 1.25rem; margin-top: 0 } p { color: #b00020 }
</style></head><body>
<form method="post"><h1>Jobs</h1>{% if error %}<p role="alert">{{ error }}</p>{% endif %}
<label for="username">User name</label><input id="username" name="username" autocomplete="username" autofocus required>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button type="submit">Log in</button></form></body></html>"""


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
    from rqstack.transport.client import connect, explain, safe_url

    settings = settings or load(Settings)
    stack = stack or load(StackSettings)
    password = stack.dashboard_password.get_secret_value() if stack.dashboard_password else ""
    if not password:
        raise SettingsError("DASHBOARD_PASSWORD is not set, and the jobs page needs it for its login. Set it in .env.")

    # rq-dashboard's pages load style sheets and scripts from the application, not from its blueprint.
    app = Flask("rqstack.jobs_page", static_folder=blueprint.static_folder)
    app.config.from_object(default_settings)
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),  # random per process: a restart ends all sessions
        SESSION_COOKIE_NAME="rqstack_jobs",
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
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
    _require_login(app, stack.dashboard_username, password)
    app.register_blueprint(blueprint)

    from redis.exceptions import RedisError
    from rq.exceptions import NoSuchJobError

    @app.errorhandler(NoSuchJobError)
    def no_such_job(error: NoSuchJobError) -> tuple[str, int, dict[str, str]]:
        return f"{error}.", 404, {"Content-Type": "text/plain; charset=utf-8"}

    @app.errorhandler(RedisError)
    def redis_failed(error: RedisError) -> tuple[str, int]:
        return str(explain(error, settings.redis_url)), 503

    return app


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

    serializer = get_job_serializer(settings, allow_unsigned=False)

    def loads(data: bytes) -> Any:
        try:
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


def _require_login(app: Flask, username: str, password: str) -> None:
    """Require a login for all endpoints but `PUBLIC_ENDPOINTS`."""
    from flask import abort, redirect, render_template_string, request, session, url_for

    from rqstack.api.login_limiter import LoginLimiter

    limiter = LoginLimiter()

    @app.before_request
    def guard() -> Response | None:
        origin = request.headers.get("Origin")
        if request.method not in SAFE_METHODS and (
            request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin"
            or (origin is not None and urlsplit(origin).netloc != request.host)
        ):
            abort(403, "Cross-site requests are not allowed.")
        if request.endpoint in PUBLIC_ENDPOINTS:
            return None
        if session.get("user") != username:
            if request.method == "GET" and (request.path == "/" or "/view" in request.path):
                return redirect(url_for("login"))
            abort(401, "Log in at /login first.")
        rule = request.url_rule
        if request.method in SAFE_METHODS and rule is not None and rule.methods and "POST" in rule.methods:
            abort(405, valid_methods=["POST"], description="This changes jobs, so it needs a POST.")
        return None

    @app.after_request
    def headers(response: Any) -> Any:
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        return response

    @app.route("/login", methods=["GET", "POST"])
    def login() -> Any:
        if request.method == "POST":
            # Not a forwarded header, which clients can forge. All clients behind a proxy count as one address.
            address = request.remote_addr or ""
            if (wait := limiter.acquire(address)) > 0:
                seconds = math.ceil(wait)
                page = render_template_string(_LOGIN, error=f"Too many attempts. Try again in {seconds} s.")
                return page, 429, {"Retry-After": str(seconds)}
            name_matches = hmac.compare_digest(request.form.get("username", "").encode(), username.encode())
            password_matches = hmac.compare_digest(request.form.get("password", "").encode(), password.encode())
            if name_matches and password_matches:
                limiter.reset(address)
                session.clear()
                session.permanent = True
                session["user"] = username
                return redirect(url_for("rq_dashboard.queues_overview"))
            logging.getLogger(__name__).warning("failed login from %s", address)
            return render_template_string(_LOGIN, error="User name or password is wrong."), 401
        return render_template_string(_LOGIN, error="")

    @app.route("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}


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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        server = waitress.create_server(app, host=host, port=port, threads=THREADS, ident=None)
    except OSError as error:
        raise SettingsError(
            f"DASHBOARD_PORT: cannot listen on {host}:{port}: {error.strerror}. Choose another port."
        ) from error
    logging.getLogger(__name__).info("Serving the jobs page on http://%s:%d/", host, port)
    server.run()
