#!/bin/sh
# The MLflow server on PostgreSQL, artifacts in S3 or a folder. What is secret comes from files or the environment and
# is handed on in the environment, so it is in no command line and no log. Set:
#
#     MLFLOW_BACKEND_STORE_URI     postgresql+psycopg2://mlflow@HOST:5432/mlflow, without a password
#     PGPASSWORD_FILE              the password's file; or PGPASSWORD itself
#     MLFLOW_ARTIFACTS_DESTINATION s3://BUCKET/FOLDER or a folder; clients reach artifacts through this server
#     AWS_SHARED_CREDENTIALS_FILE  for S3, an AWS credentials file; not needed where the machine's role may use the bucket
#     MLFLOW_S3_ENDPOINT_URL       for another S3 than Amazon's
#     MLFLOW_HOST, MLFLOW_PORT     127.0.0.1 and 5000 unless set
#     MLFLOW_SERVER_ALLOWED_HOSTS  names that clients call it by; by default localhost and private addresses
set -eu

: "${MLFLOW_BACKEND_STORE_URI:?set it to postgresql+psycopg2://USER@HOST:5432/DATABASE}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?set it to s3://BUCKET/FOLDER or a folder}"
case "$MLFLOW_BACKEND_STORE_URI" in
    *://*:*@*)
        echo "mlflow-server: the password is no part of MLFLOW_BACKEND_STORE_URI; give PGPASSWORD_FILE" >&2
        exit 2
        ;;
esac
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi
# Set but empty, as compose files leave it, it would be taken for an address.
[ -n "${MLFLOW_S3_ENDPOINT_URL:-}" ] || unset MLFLOW_S3_ENDPOINT_URL
export MLFLOW_BACKEND_STORE_URI MLFLOW_ARTIFACTS_DESTINATION MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SERVE_ARTIFACTS=true
exec mlflow server --host "${MLFLOW_HOST:-127.0.0.1}" --port "${MLFLOW_PORT:-5000}" --workers "${MLFLOW_WORKERS:-2}"
