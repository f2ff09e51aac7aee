"""Helpers that tests share: servers, workers and other processes, and waiting for them."""

from pkgutil import iter_modules

import pytest

# Asserts in here show their values, as those of the tests do.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))
