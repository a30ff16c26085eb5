"""The services that one machine needs: PostgreSQL, Airflow, Dask, MLflow and the miniature web, all on localhost.

`control` has the commands (up, down, status), `supervisor` is the process that keeps the services running, and
`definitions` states how to start each service and when it is ready.
"""
