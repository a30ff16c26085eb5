#!/bin/sh
# Airflow's tables, users and pools. Safe to run again; passwords and sizes follow .env.
set -eu
airflow db migrate
exec airflow_users.py
