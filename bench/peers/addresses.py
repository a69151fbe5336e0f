"""Where the benchmark's servers are, in the forms that the peers take."""

import os
from urllib.parse import quote

HOST, PORT, PASSWORD = os.environ["REDIS_HOST"], int(os.environ["REDIS_PORT"]), os.environ["REDIS_PASSWORD"]
REDIS = f"redis://:{quote(PASSWORD, safe='')}@{HOST}:{PORT}/0"

_names = {"host": "POSTGRES_HOST", "user": "POSTGRES_USER", "dbname": "POSTGRES_DB"}
POSTGRES = " ".join(f"{name}={os.environ[variable]}" for name, variable in _names.items())
DJANGO = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["POSTGRES_HOST"],
        "USER": os.environ["POSTGRES_USER"],
        "NAME": os.environ["POSTGRES_DB"],
    }
}
