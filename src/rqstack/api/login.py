"""The login of the jobs page: sessions that end, changes from the page alone, and a limit of attempts.

Behind Docker all clients may share one address, so with a limit per address alone anybody could lock the admin out. A
browser that has logged in keeps a device cookie, and has a limit of its own. `rqstack dashboard --login-link` prints a
link that gives a browser such a cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import math
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.wrappers import Response

log = logging.getLogger(__name__)

SESSION_HOURS = 12
ATTEMPTS_PER_MINUTE = 5
DEVICE_COOKIE = "rqstack_device"
_DEVICE_DAYS = 180
_MAX_SESSIONS = 1000
_PUBLIC = ("login", "health")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Sessions:
    """The sessions that are alive, in memory: a restart ends all.

    Args:
        seconds: After which a session ends, however much it is used.
        most: The oldest is ended beyond that.
    """

    def __init__(self, seconds: float = SESSION_HOURS * 3600, most: int = _MAX_SESSIONS) -> None:
        self._seconds = seconds
        self._most = most
        self._ends: dict[str, float] = {}
        self._lock = threading.Lock()

    def begin(self) -> str:
        """Begin a session. Returns its id."""
        name = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._ends) >= self._most:
                del self._ends[next(iter(self._ends))]
            self._ends[name] = time.monotonic() + self._seconds
        return name

    def is_alive(self, name: Any) -> bool:
        """Whether a session has begun and not ended."""
        return isinstance(name, str) and self._ends.get(name, 0.0) > time.monotonic()

    def end(self, name: Any) -> None:
        """End a session."""
        if isinstance(name, str):
            self._ends.pop(name, None)


class Devices:
    """Tokens of browsers that have a limit of their own.

    Args:
        password: Of the page. Another password makes all tokens invalid.
    """

    def __init__(self, password: str) -> None:
        # Slow, so that a token does not help to guess the password.
        self._key = hashlib.scrypt(password.encode(), salt=b"rqstack jobs page device", n=2**14, r=8, p=1)

    def make(self) -> str:
        """A new token."""
        name = secrets.token_urlsafe(16)
        return f"{name}.{self._mac(name)}"

    def name(self, token: str) -> str | None:
        """The device of a token; None if it is not valid."""
        name, _, mac = token.partition(".")
        return name if hmac.compare_digest(mac.encode(), self._mac(name).encode()) else None

    def _mac(self, name: str) -> str:
        return hmac.new(self._key, name.encode(), "sha256").hexdigest()


def login_link(password: str, port: int) -> str:
    """A link to the page on this machine, which gives a browser a limit of its own."""
    return f"http://127.0.0.1:{port}/login?device={Devices(password).make()}"


def require_login(app: Flask, username: str, password: str) -> None:
    """Require a login for all endpoints but the login itself and `/health`."""
    from flask import abort, make_response, redirect, render_template, request, session, url_for
    from limits import RateLimitItemPerMinute
    from limits.storage import MemoryStorage
    from limits.strategies import MovingWindowRateLimiter

    sessions, devices = Sessions(), Devices(password)
    attempts = RateLimitItemPerMinute(ATTEMPTS_PER_MINUTE)
    limiter = MovingWindowRateLimiter(MemoryStorage())

    @app.before_request
    def guard() -> Response | None:
        origin = request.headers.get("Origin")
        if request.method not in _SAFE_METHODS and (
            request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin"
            or (origin is not None and _host(origin) != request.host)
        ):
            abort(403, "Cross-site requests are not allowed.")
        if request.endpoint in _PUBLIC:
            return None
        if not sessions.is_alive(session.get("id")):
            if request.method == "GET" and (request.path == "/" or "/view" in request.path):
                return redirect(url_for("login"))
            abort(401, "Log in at /login first.")
        rule = request.url_rule
        if request.method in _SAFE_METHODS and rule is not None and rule.methods and "POST" in rule.methods:
            abort(405, valid_methods=["POST"], description="This changes jobs, so it needs a POST.")
        return None

    def client() -> tuple[str, str]:
        """Whose attempts are counted together: a device's, or an address's."""
        if device := devices.name(request.cookies.get(DEVICE_COOKIE, "")):
            return "device", device
        # Not a forwarded header, which clients can forge.
        return "address", network(request.remote_addr or "")

    def keep_device(response: Response) -> Response:
        response.set_cookie(
            DEVICE_COOKIE,
            devices.make(),
            max_age=_DEVICE_DAYS * 86400,
            path=url_for("login"),
            httponly=True,
            samesite="Strict",
        )
        return response

    @app.route("/login", methods=["GET", "POST"])
    def login() -> Any:
        if request.method != "POST":
            if devices.name(request.args.get("device", "")):
                return keep_device(redirect(url_for("login")))
            return render_template("login.html", error="")
        who = client()
        if not limiter.hit(attempts, *who):
            seconds = max(1, math.ceil(limiter.get_window_stats(attempts, *who).reset_time - time.time()))
            error = (
                f"Too many attempts. Try again in {seconds} s, or open the link that `rqstack dashboard --login-link` "
                "prints on the server."
            )
            return render_template("login.html", error=error), 429, {"Retry-After": str(seconds)}
        name_matches = hmac.compare_digest(request.form.get("username", "").encode(), username.encode())
        password_matches = hmac.compare_digest(request.form.get("password", "").encode(), password.encode())
        if not (name_matches and password_matches):
            log.warning("failed login from %s", request.remote_addr)
            return render_template("login.html", error="User name or password is wrong."), 401
        sessions.end(session.get("id"))
        session.clear()
        session["id"] = sessions.begin()
        response = redirect(url_for("rq_dashboard.queues_overview"))
        if who[0] == "device":
            limiter.clear(attempts, *who)
            return response
        return keep_device(response)

    @app.route("/logout", methods=["POST"])
    def logout() -> Response:
        sessions.end(session.get("id"))
        session.clear()
        return make_response(redirect(url_for("login")))


def _host(origin: str) -> str:
    """The host and port of an Origin header; "" if it is no URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def network(address: str) -> str:
    """What a limit per address counts by: an IPv4 address, or the /64 of an IPv6 one, in which a client can have any.

    Args:
        address: As the server saw it.
    """
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped:
            return str(known.ipv4_mapped)
        return str(ipaddress.ip_network((int(known) >> 64 << 64, 64)))
    return str(known)
