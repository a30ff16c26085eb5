#!/bin/sh
# Run by the PostgreSQL image on a new volume: creates separate users and databases for Airflow and MLflow.
set -eu
create() { # USER PASSWORD DATABASE…
    user=$1 password=$2
    shift 2
    echo "CREATE USER $user PASSWORD '$password';"
    for database in "$@"; do
        echo "CREATE DATABASE $database OWNER $user;"
        echo "REVOKE ALL ON DATABASE $database FROM PUBLIC;"
    done
}
{
    create airflow "$AIRFLOW_DATABASE_PASSWORD" airflow
    create mlflow "$MLFLOW_DATABASE_PASSWORD" mlflow mlflow_users
} | psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres
