#!/bin/sh
# MLflow server with users. Its configuration contains secrets, so it is generated here, readable only by its user.
set -eu
umask 077
folder=$(mktemp -d)
cat > "$folder/auth.ini" <<INI
[mlflow]
default_permission = READ
database_uri = $MLFLOW_AUTH_DATABASE
admin_username = admin
admin_password = $MLFLOW_ADMIN_PASSWORD
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
export MLFLOW_AUTH_CONFIG_PATH="$folder/auth.ini"
unset MLFLOW_ADMIN_PASSWORD MLFLOW_AUTH_DATABASE
exec mlflow server --app-name basic-auth --host "${MLFLOW_HOST:-0.0.0.0}" --port 5000 --workers "${MLFLOW_WORKERS:-2}" \
    --artifacts-destination "$MLFLOW_ARTIFACTS" --allowed-hosts "$MLFLOW_ALLOWED_HOSTS"
