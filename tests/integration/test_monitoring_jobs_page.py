"""The jobs page as a person and as an attacker meet it: over HTTP, and in a real browser."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from http.cookiejar import CookieJar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError
from rq import Queue, RateLimit, SimpleWorker, Worker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.webhook import Webhook

from rqstack.enqueue import Queue as StackQueue
from rqstack.stack import processes
from rqstack.stack.acl import RULES
from support.ports import free_port
from support.processes import start
from support.redis_server import RedisServer
from support.waiting import until

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
PASSWORD = "a password, 'quoted'"
KEY = "k" * 40


class Page:
    """A browser's session with the jobs page, without the browser."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cookies = CookieJar()

        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *args: Any) -> None:
                return None

        self.opener = urllib.request.build_opener(Stay, urllib.request.HTTPCookieProcessor(self.cookies))

    def ask(self, path: str, data: dict[str, str] | None = None, **headers: str) -> tuple[int, str, Any]:
        """Status, body and headers of a GET, or of a POST of a form."""
        body = None if data is None else urlencode(data).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with self.opener.open(urllib.request.Request(self.url + path, data=body, headers=given), timeout=20) as got:
                return got.status, got.read().decode(), got.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), error.headers

    def log_in(self, username: str = "admin", password: str = PASSWORD) -> int:
        return self.ask("/login", {"username": username, "password": password})[0]


@pytest.fixture(scope="session")
def dashboard_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of the page that `make start` makes; made now if there is none."""
    from rqstack.stack import dependencies

    with (tmp_path_factory.getbasetemp().parent / "dashboard.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return dependencies.ensure_environment(ROOT, "dashboard", print) / "python"


def make_user(server: RedisServer) -> None:
    """The page's user, with the rights that it has in the stack."""
    role = processes.get("dashboard").role
    server.client().execute_command("ACL", "SETUSER", role, "on", ">secret", "-@all", *RULES[role].split())


@contextlib.contextmanager
def running_page(server: RedisServer, python: Path, home: Path, **settings: str) -> Iterator[Page]:
    """The page, as the Redis user that the stack gives it."""
    make_user(server)
    port = free_port()
    environment = os.environ | {
        "REDIS_URL": server.url,
        "REDIS_USERNAME": processes.get("dashboard").role or "",
        "REDIS_PASSWORD": "secret",
        "RQSTACK_SECRET_KEY": KEY,
        "RQSTACK_HOME": str(home),
    }
    (home / ".env").write_text(f'DASHBOARD_PASSWORD="{PASSWORD}"\n')
    command = [str(python), "-m", "rqstack.cli.main", "dashboard", "--port", str(port)]
    log = home / "page.log"
    process = start(command, log, env=environment | settings)
    found = Page(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        status, _, _ = found.ask("/health")
        assert status == 200
        return True

    try:
        until(answers, 30, errors=(OSError,), log=log.read_text)
        yield found
        assert "Traceback" not in log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


@pytest.fixture
def page(own_redis: RedisServer, dashboard_python: Path, tmp_path: Path) -> Iterator[Page]:
    """The page of an empty Redis, running."""
    with running_page(own_redis, dashboard_python, tmp_path) as found:
        yield found


@pytest.fixture
def queue(own_redis: RedisServer) -> Queue:
    """A queue whose payloads are signed with the page's key."""
    from rqstack.security import get_job_serializer
    from rqstack.settings import Settings, load

    serializer = get_job_serializer(load(Settings, secret_key=KEY))
    return StackQueue("short-running", connection=own_redis.client(), serializer=serializer)


def run(queue: Queue) -> None:
    SimpleWorker([queue], connection=queue.connection, serializer=queue.serializer).work(burst=True, logging_level=50)


def failed_job(queue: Queue) -> Any:
    job = queue.enqueue("json.loads", "{")
    run(queue)
    assert job.get_status(refresh=True) == "failed"
    return job


def test_nothing_is_shown_or_changed_without_the_login(page: Page, queue: Queue) -> None:
    job = failed_job(queue)
    for path in ("/", "/0/view/queues", "/0/view/jobs", f"/0/view/job/{job.id}"):
        status, _, headers = page.ask(path)
        assert (status, headers["Location"]) == (302, "/login"), path
    for path in ("/0/data/queues.json", "/0/data/workers.json", f"/0/data/job/{job.id}.json", "/requeue/short-running"):
        status, body, _ = page.ask(path)
        assert status == 401, path
        assert "short-running" not in body
    for path in ("/requeue/short-running", f"/job/{job.id}/delete", f"/job/{job.id}/requeue"):
        assert page.ask(path, {})[0] == 401, path
    assert page.ask("/queue/short-running/failed/empty", {})[0] == 401
    assert page.log_in(password="wrong") == 401
    assert page.log_in(username="root") == 401
    assert page.ask("/0/data/queues.json")[0] == 401
    assert job.get_status(refresh=True) == "failed"


def test_only_a_post_of_the_page_itself_changes_jobs(page: Page, queue: Queue) -> None:
    job = failed_job(queue)
    assert page.log_in() == 302
    status, body, _ = page.ask("/requeue/short-running")
    assert (status, "POST" in body) == (405, True), "a GET requeued, as rq-dashboard does by itself"
    assert page.ask("/requeue/short-running", {}, Origin="http://elsewhere.example")[0] == 403
    assert page.ask("/requeue/short-running", {}, Sec_Fetch_Site="cross-site")[0] == 403
    assert page.ask("/login", {"username": "admin", "password": PASSWORD}, Sec_Fetch_Site="cross-site")[0] == 403
    assert job.get_status(refresh=True) == "failed"
    status, body, _ = page.ask("/requeue/short-running", {}, Origin=page.url, Sec_Fetch_Site="same-origin")
    assert (status, json.loads(body)) == (200, {"status": "OK", "count": 1})
    assert job.get_status(refresh=True) == "queued"
    assert queue.job_ids == [job.id]


def test_the_session_is_kept_from_other_sites_and_scripts(page: Page) -> None:
    _, _, headers = page.ask("/login", {"username": "admin", "password": PASSWORD})
    cookie = headers["Set-Cookie"]
    assert "SameSite=Strict" in cookie
    assert "HttpOnly" in cookie
    _, _, headers = page.ask("/")
    assert headers["X-Frame-Options"] == "DENY"


def test_results_are_shown_and_forged_payloads_are_not_unpickled(page: Page, queue: Queue, tmp_path: Path) -> None:
    good = queue.enqueue("json.loads", '{"answer": 42}')
    run(queue)
    marker = tmp_path / "executed"

    class Forged:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    plain = Queue("forged", connection=queue.connection)
    forged = plain.enqueue("time.sleep", 0, description="forged")
    queue.connection.hset(forged.key, "data", pickle.dumps(Forged()))
    from rq.results import Result

    Result.create(forged, Result.Type.SUCCESSFUL, ttl=60, return_value=Forged())
    marker.rmdir() if marker.exists() else None
    assert page.log_in() == 302
    shown = json.loads(page.ask(f"/0/data/job/{good.id}.json")[1])
    assert shown["result"] == {"answer": 42}
    status, body, _ = page.ask(f"/0/data/job/{forged.id}.json")
    assert status == 200
    assert "cannot be shown" in json.loads(body)["result"]
    assert page.ask("/0/data/jobs/forged/queued/8/asc/1.json")[0] == 200
    assert not marker.exists()


def test_what_rq_3_writes_is_counted_and_shown(page: Page, queue: Queue) -> None:
    """Executions, rate limits, webhooks and the ready registry too."""
    failed_job(queue)
    webhook = Webhook("http://127.0.0.1:1/", "finished")
    ran = queue.enqueue("json.loads", "1", webhooks=[webhook])
    run(queue)
    running = queue.enqueue("json.loads", "2")
    queue.connection.lrem(queue.key, 1, running.id)
    running.set_status(JobStatus.STARTED)
    with queue.connection.pipeline() as pipeline:
        Execution.create(running, 60, pipeline)
        pipeline.execute()
    limited = [queue.enqueue("json.loads", "3", rate_limit=RateLimit("narrow", 1)) for _ in range(3)]
    dependent = queue.enqueue("json.loads", "4", depends_on=running)
    delayed = queue.enqueue_in(timedelta(hours=1), "json.loads", "5")
    assert page.log_in() == 302
    (shown,) = json.loads(page.ask("/0/data/queues.json")[1])["queues"]
    found = {name.removesuffix("_job_registry_count"): value for name, value in shown.items() if "count" in name}
    expected = {"count": 1, "failed": 1, "started": 1, "deferred": 1, "finished": 1, "canceled": 0, "scheduled": 1}
    assert found == expected
    for registry in ("queued", "started", "failed", "finished", "deferred", "scheduled"):
        status, body, _ = page.ask(f"/0/data/jobs/{queue.name}/{registry}/8/asc/1.json")
        assert status == 200
        assert len(json.loads(body)["jobs"]) == 1
    for job in (ran, running, *limited, dependent, delayed):
        status, body, _ = page.ask(f"/0/data/job/{job.id}.json")
        assert status == 200
        assert json.loads(body)["id"] == job.id


def test_a_lost_redis_is_said_in_a_sentence_and_the_page_comes_back(page: Page, own_redis: RedisServer) -> None:
    assert page.log_in() == 302
    assert page.ask("/0/data/queues.json")[0] == 200
    own_redis.kill()
    status, body, _ = page.ask("/0/data/queues.json")
    assert status == 503
    assert "cannot be reached" in body
    assert page.ask("/health")[0] == 200
    own_redis.start()
    make_user(own_redis)
    assert page.ask("/0/data/queues.json")[0] == 200


def test_its_redis_user_may_do_what_the_page_does_and_no_more(page: Page, queue: Queue, own_redis: RedisServer) -> None:
    """Each of rq-dashboard's endpoints, as the user that both stacks name."""
    role = processes.get("dashboard").role
    compose = (ROOT / "docker-compose-monitor.yml").read_text()
    service = compose[compose.index("\n  dashboard:") : compose.index("\n  prometheus:")]
    assert f"REDIS_USERNAME: {role}\n" in service
    assert f"redis_{role}_password" in service
    with pytest.raises(NoPermissionError):
        Redis(port=own_redis.port, username=role, password="secret").flushall()

    job, other = failed_job(queue), failed_job(queue)
    waiting = queue.enqueue("time.sleep", 0)
    worker = Worker([queue], connection=queue.connection)
    worker.register_birth()
    assert page.log_in() == 302
    for path in ("queues", "workers", "jobs", f"job/{job.id}", "jobs/short-running/failed/8/asc/1"):
        assert page.ask(f"/0/view/{path}")[0] in (200, 308), path
    registries = ("queued", "failed", "started", "finished", "deferred", "scheduled", "canceled")
    for path in ("queues", "workers", f"job/{job.id}", *(f"jobs/short-running/{name}/8/asc/1" for name in registries)):
        status, body, _ = page.ask(f"/0/data/{path}.json")
        assert status == 200, (path, body)
    assert page.ask(f"/job/{job.id}/requeue", {})[0] == 200
    assert queue.job_ids == [waiting.id, job.id]
    assert page.ask(f"/job/{waiting.id}/delete", {})[0] == 200
    assert page.ask("/queue/short-running/compact", {})[0] == 200
    assert queue.job_ids == [job.id]
    assert page.ask("/queue/short-running/queued/empty", {})[0] == 200
    assert queue.job_ids == []
    assert page.ask("/queue/short-running/failed/empty", {})[0] == 200
    assert not Job.exists(other.id, connection=queue.connection)


def login_link(page: Page, dashboard_python: Path, home: Path) -> str:
    command = [str(dashboard_python), "-m", "rqstack.cli.main", "dashboard", "--login-link"]
    environment = os.environ | {"RQSTACK_HOME": str(home), "DASHBOARD_PORT": page.url.rpartition(":")[2]}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_who_tries_many_passwords_waits_and_locks_out_nobody_else(
    page: Page, dashboard_python: Path, tmp_path: Path
) -> None:
    """All come from one address, as behind Docker."""
    admin = Page(page.url)
    assert admin.log_in() == 302
    stranger = Page(page.url)
    statuses = [stranger.log_in(password=f"guess {number}") for number in range(6)]
    assert statuses[-1] == 429
    assert set(statuses[:-1]) <= {401, 429}
    status, body, headers = stranger.ask("/login", {"username": "admin", "password": PASSWORD})
    assert (status, "Too many attempts" in body, "--login-link" in body) == (429, True, True)
    assert 0 < int(headers["Retry-After"]) <= 60
    assert stranger.ask("/0/data/queues.json")[0] == 401
    assert stranger.ask("/login")[0] == 200

    assert admin.log_in() == 302, "a browser that has logged in before has a limit of its own"
    elsewhere = Page(page.url)
    link = login_link(page, dashboard_python, tmp_path)
    assert elsewhere.ask(link.removeprefix(page.url))[0] == 302
    assert elsewhere.ask("/0/data/queues.json")[0] == 401, "the link alone opens nothing"
    assert [elsewhere.log_in(password=f"guess {number}") for number in range(6)] == [401] * 5 + [429]
    second = Page(page.url)
    second.ask(login_link(page, dashboard_python, tmp_path).removeprefix(page.url))
    assert second.log_in() == 302
    forged = Page(page.url)
    assert forged.ask("/login?device=me.0123")[0] == 200
    assert forged.log_in() == 429


def test_a_logout_ends_the_session_for_good(page: Page) -> None:
    assert page.log_in() == 302
    stolen = "; ".join(f"{cookie.name}={cookie.value}" for cookie in page.cookies)
    thief = Page(page.url)
    assert thief.ask("/0/data/queues.json", Cookie=stolen)[0] == 200
    assert page.ask("/logout")[0] == 405
    assert page.ask("/logout", {}, Sec_Fetch_Site="cross-site")[0] == 403
    assert page.ask("/logout", {})[0] == 302
    assert page.ask("/0/data/queues.json")[0] == 401
    assert thief.ask("/0/data/queues.json", Cookie=stolen)[0] == 401


def test_no_page_allows_scripts(page: Page, queue: Queue) -> None:
    job = failed_job(queue)
    nonces = set()
    assert page.log_in() == 302
    views = ["/login", "/", "/0/view/jobs", "/0/view/workers", f"/0/view/job/{job.id}", "/health", "/no/such/page"]
    for path in [*views, "/0/view/jobs/short-running/failed/8/asc/1", "/0/data/queues.json"]:
        _, body, headers = page.ask(path)
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'", path
        assert not {"script-src", "script-src-elem", "object-src"} & set(policy)
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        nonces.add(policy["style-src"])
        assert "<script" not in body
        assert not re.search(r"\son\w+=", body)
    assert len(nonces) > 8, "each answer has its own"


@pytest.mark.parametrize(
    "path",
    [
        *("/1/view/queues", "/1/data/queues.json", "/0/view/jobs/q/other/8/asc/1", "/0/data/jobs/q/other/8/asc/1.json"),
        *("/0/data/jobs/q/failed/0/asc/1.json", "/0/data/jobs/q/failed/8/up/1.json"),
        *("/0/data/jobs/q/failed/x/asc/1.json", "/0/data/jobs/q/failed/8/asc/-1.json"),
        *("/0/view/jobs/q/failed/100000/asc/1", "/0/data/jobs/q/failed/8/asc/99999999999999999999.json"),
        *("/0/view/job/none", "/0/data/job/none.json", "/0/view/job/no%3Cid", "/0/data/job/no%3Cid.json"),
    ],
)
def test_what_is_not_there_is_404(page: Page, path: str) -> None:
    assert page.log_in() == 302
    assert page.ask(path)[0] == 404


def test_actions_that_came_too_late_are_said_so(page: Page, queue: Queue) -> None:
    assert page.log_in() == 302
    assert page.ask("/job/none/requeue", {})[0] == 404
    waiting = queue.enqueue("time.sleep", 0)
    assert page.ask(f"/job/{waiting.id}/requeue", {})[0] == 409
    job = failed_job(queue)
    status, _, headers = page.ask(f"/job/{job.id}/requeue", {"back": "/0/view/queues"})
    assert (status, headers["Location"]) == (303, "/0/view/queues")
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example"):
        assert page.ask("/queue/short-running/compact", {"back": elsewhere})[0] == 200


@pytest.mark.parametrize("settings", [{"RQSTACK_ALLOW_UNREGISTERED": "1"}, {"RQSTACK_SECRET_KEY": ""}], ids=str)
def test_unsigned_results_are_not_unpickled_whatever_workers_accept(
    own_redis: RedisServer, dashboard_python: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    marker = tmp_path / "executed"

    class Forged:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    from rq.results import Result

    forged = Queue("forged", connection=own_redis.client()).enqueue("time.sleep", 0, description="forged")
    own_redis.client().hset(forged.key, mapping={"data": pickle.dumps(Forged()), "meta": pickle.dumps(Forged())})
    Result.create(forged, Result.Type.SUCCESSFUL, ttl=60, return_value=Forged())
    marker.rmdir() if marker.exists() else None
    with running_page(own_redis, dashboard_python, tmp_path, **settings) as page:
        assert page.log_in() == 302
        status, body, _ = page.ask(f"/0/data/job/{forged.id}.json")
        assert (status, "cannot be shown" in json.loads(body)["result"]) == (200, True)
        for path in (f"/0/view/job/{forged.id}", "/0/view/jobs/forged/queued/8/asc/1"):
            assert page.ask(path)[0] == 200
    assert not marker.exists()


def test_without_a_password_it_does_not_start(dashboard_python: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "DASHBOARD_PASSWORD"} | {"RQSTACK_HOME": str(tmp_path)}
    command = [str(dashboard_python), "-m", "rqstack.cli.main", "dashboard"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "DASHBOARD_PASSWORD" in done.stderr


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """A real headless Chromium."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = (
        "headless no-sandbox disable-gpu disable-background-networking disable-sync no-first-run disable-dev-shm-usage"
    )
    for flag in [*flags.split(), f"user-data-dir={tmp_path / 'chromium'}", "window-size=1200,900"]:
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.mark.slow
def test_a_browser_logs_in_sees_the_queues_and_requeues(
    browser: Chrome, page: Page, queue: Queue, tmp_path: Path
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions as expected
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 20)
    job = failed_job(queue)
    other = Queue("long-running", connection=queue.connection, serializer=queue.serializer)
    for _ in range(3):
        other.enqueue("time.sleep", 0)

    browser.get(f"{page.url}/0/view/queues")
    assert browser.current_url == f"{page.url}/login"
    assert "short-running" not in browser.page_source
    browser.find_element(By.ID, "username").send_keys("admin")
    browser.find_element(By.ID, "password").send_keys("wrong")
    browser.find_element(By.CSS_SELECTOR, "button").click()
    wait.until(expected.presence_of_element_located((By.CSS_SELECTOR, "[role=alert]")))
    browser.find_element(By.ID, "username").send_keys("admin")
    browser.find_element(By.ID, "password").send_keys(PASSWORD)
    browser.get_log("browser")  # forgets what was refused before the login
    browser.find_element(By.CSS_SELECTOR, "button").click()

    wait.until(expected.text_to_be_present_in_element((By.TAG_NAME, "table"), "long-running"))
    browser.save_screenshot(str(tmp_path / "queues.png"))
    heads = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "table th")]
    lines = browser.find_elements(By.CSS_SELECTOR, "table tbody tr")
    cells = [[cell.text for cell in line.find_elements(By.TAG_NAME, "td")] for line in lines]
    rows = {line[0]: dict(zip(heads, line, strict=False)) for line in cells if len(line) == len(heads)}
    assert set(rows) == {"long-running", "short-running"}
    assert (rows["long-running"]["Queued jobs"], rows["long-running"]["Failed jobs"]) == ("3", "0")
    assert (rows["short-running"]["Queued jobs"], rows["short-running"]["Failed jobs"]) == ("0", "1")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []

    browser.get(f"{page.url}/0/view/jobs/short-running/failed/8/asc/1")
    wait.until(expected.text_to_be_present_in_element((By.TAG_NAME, "table"), "json.loads"))
    wait.until(expected.element_to_be_clickable((By.CSS_SELECTOR, "[data-role=requeue-job-btn]"))).click()
    wait.until(lambda _: job.get_status(refresh=True) == "queued")
    assert queue.job_ids == [job.id]


SCRIPTS = [
    "<script>window.ran = 1</script>",
    "<img src=x onerror=window.ran=1>",
    "\"'><svg onload=window.ran=1>",
    "</title></pre></textarea><script>window.ran = 1</script>",
    "<%= window.ran = 1 %>{{ 7 * 191 }}{% raw %}${window.ran=1}",
    "javascript:window.ran=1//",
    "<iframe srcdoc='<script>parent.ran = 1</script>'></iframe>",
    "<a href=javascript:window.ran=1 autofocus onfocus=window.ran=1>x</a><base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=javascript:window.ran=1'>",
]


def test_a_browser_runs_no_script_that_is_stored_in_redis(browser: Chrome, page: Page, queue: Queue) -> None:
    """Script in arguments, results, errors, metadata, and in the names of queues, jobs and workers."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    redis, key = queue.connection, queue.serializer
    named = [Queue(script, connection=redis, serializer=key) for script in SCRIPTS]
    done = [queue.enqueue("json.dumps", script, meta={"note": script}) for script in SCRIPTS]
    failed = [each.enqueue("json.loads", each.name, description=each.name) for each in named]
    SimpleWorker([queue, *named], connection=redis, serializer=key).work(burst=True, logging_level=50)
    paths = ["/0/view/queues", "/0/view/workers", "/0/view/jobs"]
    for number, (script, other) in enumerate(zip(SCRIPTS, named, strict=True)):
        waiting = other.enqueue("time.sleep", script, job_id=f"waiting-{number}", description=script)
        # RQ's classes refuse such names and ids; somebody with a producer's password writes what he likes.
        redis.lpush(other.key, script)
        redis.hset(f"rq:job:{script}", mapping=redis.hgetall(waiting.key))
        worker = Worker([other], connection=redis, name=f"worker-{number}")
        worker.register_birth()
        record = redis.hgetall(worker.key) | {b"state": script.encode(), b"current_job": waiting.id.encode()}
        redis.hset(f"rq:worker:{script}", mapping=record)
        redis.sadd("rq:workers", f"rq:worker:{script}")
        redis.hset(failed[number].key, "origin", script)
        paths += [f"/0/view/job/{job.id}" for job in (done[number], failed[number])]
        if "/" not in script:  # rq-dashboard's addresses have no place for such names
            paths += [f"/0/view/jobs/{quote(script)}/{name}/8/asc/1" for name in ("queued", "failed")]
    paths += [f"/0/view/jobs/short-running/{name}/50/dsc/1" for name in ("finished", "failed")]

    browser.get(f"{page.url}/login")
    browser.find_element(By.ID, "username").send_keys("admin")
    browser.find_element(By.ID, "password").send_keys(PASSWORD)
    browser.find_element(By.CSS_SELECTOR, "button").click()
    WebDriverWait(browser, 20).until(lambda _: browser.find_elements(By.ID, "queues"))
    browser.get_log("browser")
    shown = ""
    for path in paths:
        browser.get(page.url + path)
        assert not browser.current_url.endswith("/login"), path
        assert browser.execute_script("return window.ran") is None, path
        assert not browser.find_elements(By.CSS_SELECTOR, "script, iframe, img, svg, base, main [onerror]"), path
        assert browser.find_elements(By.TAG_NAME, "footer"), path
        for opener in browser.find_elements(By.TAG_NAME, "summary"):
            opener.click()
        shown += browser.find_element(By.TAG_NAME, "body").text
    for script in SCRIPTS:
        assert script in shown, "as text"
    # What the browser had to refuse would be here, by the policy that is behind the escaping.
    assert [entry for entry in browser.get_log("browser") if "Content Security" in entry["message"]] == []


def test_the_policy_holds_where_escaping_would_fail(browser: Chrome, page: Page) -> None:
    """Script that does get into the page's elements does not run."""
    browser.get(f"{page.url}/login")
    browser.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.ran=1>');"
        "const s = document.createElement('script'); s.text = 'window.ran = 1'; document.body.append(s);"
    )
    until(
        lambda: any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser")),
        10,
        "the browser to refuse it",
    )
    assert browser.execute_script("return window.ran") is None
