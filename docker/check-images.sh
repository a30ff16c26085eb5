#!/bin/sh
# Build every image on a Debian base created with debootstrap, and run a smoke test in each, on a Debian machine without
# a Docker engine. Uses unprivileged buildah. Needs root and about 15 GB.
#
#   apt-get install buildah debootstrap
#   [TARGETS="s3 worker"] docker/check-images.sh [FOLDER] [-- BUILD OPTION…]      e.g. -- --volume /etc/pip.conf:/etc/pip.conf:ro
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
if [ $# -gt 0 ] && [ "$1" != -- ]; then folder=$1; shift; fi
[ "${1:-}" != -- ] || shift
[ "$(id -u)" = 0 ] || { echo "check-images: debootstrap needs root" >&2; exit 1; }
for program in buildah debootstrap; do
    command -v $program > /dev/null || { echo "check-images: $program was not found; apt-get install $program" >&2; exit 1; }
done
mkdir -p "$folder"
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
store="--root $folder/store --runroot $folder/run"

if [ ! -e "$folder/base.tar" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/base" > "$folder/base.log"
    tar --create --file "$folder/base.tar" --directory "$folder/base" .
    rm -r "$folder/base"
fi
# shellcheck disable=SC2086 # $store holds several words
run() { buildah $store "$@"; }
base=$(run from scratch)
run add --quiet "$base" "$folder/base.tar" / > /dev/null
run commit --quiet --rm "$base" vecap-base > /dev/null

smoke_test() { # TARGET COMMAND…: run as the image's user, and as a uid missing from its /etc/passwd
    target=$1
    shift
    for user in 50000 54321; do
        container=$(run from --pull-never "localhost/vecap-$target")
        run run --user "$user:0" "$container" -- "$@"
        run rm "$container" > /dev/null
    done
}
for target in ${TARGETS:-s3 mlflow airflow worker}; do
    echo "== $target"
    run build --quiet --pull-never --target "$target" --tag "vecap-$target" --file "$here/docker/Dockerfile" \
        --build-arg BASE_IMAGE=localhost/vecap-base --build-arg VECAP_CODE_VERSION=check "$@" "$here" > /dev/null
    case $target in
        s3) smoke_test s3 sh -ec 'id -u; touch ~/a-file; weed version' ;;
        mlflow) smoke_test mlflow sh -ec 'id -u; touch ~/a-file; mlflow --version; for program in mlflow.sh mlflow_users.py healthy; do command -v $program || exit 1; done' ;;
        airflow | worker)
            smoke_test $target sh -ec 'id -u; touch ~/a-file; airflow version; vecap --help | head -n 1; echo "code $VECAP_CODE_VERSION"
                for program in airflow-tables.sh airflow_users.py buckets.py healthy celery dask; do
                    command -v $program || exit 1
                done'
            # All DAGs parse without import errors. Uses SQLite: no database service runs here.
            smoke_test $target sh -c 'export AIRFLOW__CORE__DAGS_FOLDER=/opt/vecap/dags AIRFLOW__CORE__PLUGINS_FOLDER=/opt/vecap/plugins
                export AIRFLOW_HOME=$(mktemp -d) AIRFLOW__CORE__LOAD_EXAMPLES=false PYTHONPATH=/opt/vecap/plugins
                airflow db migrate > /dev/null 2>&1
                python - <<PY
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("/opt/vecap/dags")
print(sorted(bag.dags), bag.import_errors)
raise SystemExit(bool(bag.import_errors) or len(bag.dags) < 3)
PY'
            ;;
    esac
    [ $target != worker ] || smoke_test worker python -c 'import torch, transformers; print(torch.__version__, transformers.__version__)'
done
run images
