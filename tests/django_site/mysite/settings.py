"""Settings of the site. What differs from test to test comes from the environment."""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

BASE_DIR = Path(os.environ["SITE_DATA"])
SECRET_KEY = "of no use outside the tests"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "mysite.urls"
INSTALLED_APPS = ["rqstack.contrib.django", "letters", *os.environ.get("SITE_APPS", "").split()]
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if url := os.environ.get("SITE_POSTGRES"):
    parts = urlsplit(url)
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": parts.hostname,
            "PORT": parts.port,
            "USER": parts.username,
            "NAME": parts.path[1:],
            "OPTIONS": {"application_name": "mysite"},
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": BASE_DIR / "site.db",
            "OPTIONS": {"timeout": 30},
        }
    }

# What a site says about its jobs: a dict, or single names.
RQSTACK = {"QUEUES": ["post"], "SECRET_KEY": "the site key 000", **json.loads(os.environ.get("SITE_RQSTACK", "{}"))}
RQSTACK_GRACE = 3
if backend := os.environ.get("SITE_BACKEND"):
    QUEUE_BACKEND = backend
