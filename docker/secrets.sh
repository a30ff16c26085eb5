#!/bin/sh
# Generate the secrets of docker-compose.yml: passwords and keys in .env, Dask certificates in secrets/tls. Needs only
# openssl. Existing values are kept; run it again after an update to add new ones.
#
#   docker/secrets.sh [FOLDER]      folder for both (default: the repository)
set -eu
umask 077
command -v openssl > /dev/null || { echo "secrets: openssl not found; install it" >&2; exit 1; }
folder=${1:-$(dirname "$0")/..}
mkdir -p "$folder/secrets/tls"
folder=$(cd "$folder" && pwd)
env=$folder/.env
tls=$folder/secrets/tls
touch "$env"
chmod 600 "$env"
[ -z "$(tail -c 1 "$env")" ] || echo >> "$env" # add a missing newline at the end

set_default() { # NAME VALUE: add the setting unless it exists
    grep -q "^$1=" "$env" || echo "$1=$2" >> "$env"
}
# Hexadecimal passwords need no escaping in URLs, JSON and SQL.
for name in POSTGRES_PASSWORD AIRFLOW_DATABASE_PASSWORD MLFLOW_DATABASE_PASSWORD REDIS_PASSWORD \
    AIRFLOW_SECRET_KEY AIRFLOW_JWT_SECRET AIRFLOW_ADMIN_PASSWORD AIRFLOW_OPERATOR_PASSWORD AIRFLOW_VIEWER_PASSWORD \
    MLFLOW_SECRET_KEY MLFLOW_ADMIN_PASSWORD MLFLOW_VECAP_PASSWORD VLLM_API_KEY \
    S3_ADMIN_SECRET S3_VECAP_SECRET S3_MLFLOW_SECRET S3_AIRFLOW_SECRET; do
    set_default "$name" "$(openssl rand -hex 24)"
done
set_default AIRFLOW_FERNET_KEY "$(openssl rand -base64 32 | tr '+/' '-_')"

# Containers run as the user who runs this script (never root), who owns the files they read.
user=$(id -u)
[ "$user" != 0 ] || user=50000
set_default VECAP_UID "$user"

# One certificate authority, and a certificate for each Dask role (mutual TLS).
if [ ! -e "$tls/ca.pem" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=VeCap Dask" \
        -keyout "$tls/ca.key" -out "$tls/ca.pem" 2> /dev/null
fi
for name in scheduler worker client; do
    [ ! -e "$tls/$name.pem" ] || continue
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=dask-$name" \
        -keyout "$tls/$name.key" -out "$tls/$name.csr" 2> /dev/null
    openssl x509 -req -in "$tls/$name.csr" -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -CAcreateserial -days 825 \
        -out "$tls/$name.new" 2> /dev/null
    mv "$tls/$name.new" "$tls/$name.pem"
    rm "$tls/$name.csr"
done
chmod 600 "$tls"/*.key
if [ "$(id -u)" = 0 ]; then
    chown "$user" "$tls"/*.pem "$tls"/scheduler.key "$tls"/worker.key "$tls"/client.key
    chmod 711 "$folder/secrets" "$tls"
fi
echo "secrets: wrote $env and $tls; keep them private and back them up"
