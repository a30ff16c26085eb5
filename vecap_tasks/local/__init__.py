"""Services of one machine, on localhost: PostgreSQL, Airflow, Dask, MLflow and the miniature web.

`control` implements the commands (up, down, status), `supervisor` is the process that keeps the services running, and
`definitions` lists how to start each service and when it is ready.
"""
