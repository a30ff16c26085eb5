#!/bin/sh
# SeaweedFS as an S3 server. Generates the identities file, readable only by its user; each identity has one bucket.
set -eu
umask 077
configuration=$(mktemp)
cat > "$configuration" <<JSON
{"identities": [
  {"name": "admin", "credentials": [{"accessKey": "admin", "secretKey": "$S3_ADMIN_SECRET"}],
   "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
  {"name": "vecap", "credentials": [{"accessKey": "vecap", "secretKey": "$S3_VECAP_SECRET"}],
   "actions": ["Read:vecap", "Write:vecap", "List:vecap"]},
  {"name": "mlflow", "credentials": [{"accessKey": "mlflow", "secretKey": "$S3_MLFLOW_SECRET"}],
   "actions": ["Read:mlflow", "Write:mlflow", "List:mlflow"]},
  {"name": "airflow", "credentials": [{"accessKey": "airflow", "secretKey": "$S3_AIRFLOW_SECRET"}],
   "actions": ["Read:airflow", "Write:airflow", "List:airflow"]}
]}
JSON
unset S3_ADMIN_SECRET S3_VECAP_SECRET S3_MLFLOW_SECRET S3_AIRFLOW_SECRET
host=${S3_HOST:-0.0.0.0}
exec weed server -dir="$S3_FOLDER" -ip="${S3_NAME:-s3}" -ip.bind="$host" -master.volumeSizeLimitMB=1024 -volume.max=0 \
    -filer -s3 -s3.port=8333 -s3.config="$configuration"
