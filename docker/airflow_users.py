#!/usr/bin/env python3
"""Create or update Airflow's users (one per role, passwords from the environment) and the pools."""

import os

from airflow.models.pool import Pool
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

ROLES = {"admin": "Admin", "operator": "Op", "viewer": "Viewer"}
POOLS = {
    "captioning": ("CAPTIONING_AT_ONCE", "Shard groups captioned concurrently."),
    "gpu": ("GPU_AT_ONCE", "Models trained or evaluated concurrently; one per GPU of the queue gpu."),
}


@providers_configuration_loaded
def main() -> None:
    with get_application_builder() as builder:
        users = builder.sm
        for name, role in ROLES.items():
            password = os.environ[f"AIRFLOW_{name.upper()}_PASSWORD"]
            user = users.find_user(name)
            if user:
                users.reset_password(user.id, password)
            else:
                users.add_user(name, name, "VeCap", f"{name}@localhost", users.find_role(role), password)
    for name, (slots, description) in POOLS.items():
        Pool.create_or_update_pool(name, int(os.environ[slots]), description, include_deferred=False)


main()
