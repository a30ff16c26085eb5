#!/bin/sh
# Make what docker-compose.yml wants and nobody may guess: passwords and keys into .env, certificates for Dask into
# secrets/tls. Needs openssl alone. What is there stays as it is, so running it again after an update adds what is new.
#
#   docker/secrets.sh [FOLDER]      FOLDER holds both; the repository, if it is not said
set -eu
umask 077
command -v openssl > /dev/null || { echo "secrets: openssl was not found; install it" >&2; exit 1; }
folder=${1:-$(dirname "$0")/..}
mkdir -p "$folder/secrets/tls"
folder=$(cd "$folder" && pwd)
env=$folder/.env
tls=$folder/secrets/tls
touch "$env"
chmod 600 "$env"
[ -z "$(tail -c 1 "$env")" ] || echo >> "$env" # end the last line, so that the next setting begins one

say() { # NAME VALUE: keep it, unless a value is there
    grep -q "^$1=" "$env" || echo "$1=$2" >> "$env"
}
# Hexadecimal, so that a password is the same in an address, in JSON and in SQL.
for name in POSTGRES_PASSWORD AIRFLOW_DATABASE_PASSWORD MLFLOW_DATABASE_PASSWORD REDIS_PASSWORD \
    AIRFLOW_SECRET_KEY AIRFLOW_JWT_SECRET AIRFLOW_ADMIN_PASSWORD AIRFLOW_OPERATOR_PASSWORD AIRFLOW_VIEWER_PASSWORD \
    MLFLOW_SECRET_KEY MLFLOW_ADMIN_PASSWORD MLFLOW_VECAP_PASSWORD VLLM_API_KEY \
    S3_ADMIN_SECRET S3_VECAP_SECRET S3_MLFLOW_SECRET S3_AIRFLOW_SECRET; do
    say "$name" "$(openssl rand -hex 24)"
done
say AIRFLOW_FERNET_KEY "$(openssl rand -base64 32 | tr '+/' '-_')"

# Files that a container reads belong to the user it runs as: whoever runs this, but never root.
user=$(id -u)
[ "$user" != 0 ] || user=50000
say VECAP_UID "$user"

# One authority, and a certificate for each side of Dask: all check each other's.
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
echo "secrets: $env and $tls are ready; keep them from others, and keep a copy"
