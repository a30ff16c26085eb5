#!/usr/bin/env python3
"""Create the pipeline's MLflow user, which can edit its own objects and read all others."""

import base64
import json
import os
import sys
import urllib.error
import urllib.request

SERVER = os.environ["MLFLOW_TRACKING_URI"]
NAME, PASSWORD = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]


def call(method: str, path: str, body: dict[str, str] | None = None) -> int:
    """Send a request as administrator and return the HTTP status."""
    login = base64.b64encode(f"admin:{os.environ['MLFLOW_ADMIN_PASSWORD']}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310 - the deployment's server
        f"{SERVER}/api/2.0/mlflow/users/{path}",
        json.dumps(body).encode() if body else None,
        {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


status = call("GET", f"get?username={NAME}")
if status == 404:
    status = call("POST", "create", {"username": NAME, "password": PASSWORD})
elif status == 200:  # the password may have changed
    status = call("PATCH", "update-password", {"username": NAME, "password": PASSWORD})
sys.exit(None if status == 200 else f"MLflow at {SERVER} did not create the user {NAME}: HTTP {status}")
