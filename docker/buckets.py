#!/usr/bin/env python3
"""Make the buckets of a deployment, as the administrator of its S3 server; those that are there stay as they are."""

import os

import boto3

client = boto3.client("s3", aws_access_key_id="admin", aws_secret_access_key=os.environ["S3_ADMIN_SECRET"])
there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
for name in ("vecap", "mlflow", "airflow"):
    if name not in there:
        client.create_bucket(Bucket=name)
