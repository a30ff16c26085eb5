#!/usr/bin/env python3
"""Create the missing buckets of a deployment, as administrator of its S3 server."""

import os

import boto3

client = boto3.client("s3", aws_access_key_id="admin", aws_secret_access_key=os.environ["S3_ADMIN_SECRET"])
existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
for name in ("vecap", "mlflow", "airflow"):
    if name not in existing:
        client.create_bucket(Bucket=name)
