"""Python runs this at start: the processes that RQ's tests start (`rqworker`) get the same classes and Redis."""

import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location("rq_suite_substitute", Path(__file__).parent.parent / "substitute.py")
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.install()
