"""The jobs page as a person and as an attacker meet it: over HTTP, and in a real browser."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
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
from urllib.parse import urlencode

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


@pytest.fixture
def page(own_redis: RedisServer, dashboard_python: Path, tmp_path: Path) -> Iterator[Page]:
    """The page of an empty Redis, as the user that the stack gives it, running."""
    make_user(own_redis)
    port = free_port()
    environment = os.environ | {
        "REDIS_URL": own_redis.url,
        "REDIS_USERNAME": processes.get("dashboard").role or "",
        "REDIS_PASSWORD": "secret",
        "RQSTACK_SECRET_KEY": KEY,
        "RQSTACK_HOME": str(tmp_path),
    }
    (tmp_path / ".env").write_text(f'DASHBOARD_PASSWORD="{PASSWORD}"\n')
    command = [str(dashboard_python), "-m", "rqstack.cli.main", "dashboard", "--port", str(port)]
    log = tmp_path / "page.log"
    process = start(command, log, env=environment)
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


def test_who_tries_many_passwords_waits(page: Page) -> None:
    stranger = Page(page.url)
    assert [stranger.log_in(password=f"guess {number}") for number in range(6)] == [401] * 5 + [429]
    status, body, headers = stranger.ask("/login", {"username": "admin", "password": PASSWORD})
    assert (status, "Too many attempts" in body) == (429, True)
    assert 0 < int(headers["Retry-After"]) <= 60
    assert stranger.ask("/0/data/queues.json")[0] == 401
    assert stranger.ask("/login")[0] == 200


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
