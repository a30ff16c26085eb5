#!/bin/sh
# Create Airflow's tables, users and pools. Idempotent: passwords and pool sizes are updated from .env.
set -eu
airflow db migrate
exec airflow_users.py
