"""The services that one machine needs: PostgreSQL, Airflow, Dask, MLflow and the miniature web, all on localhost.

`control` is what a person uses (up, down, status), `supervisor` the process that keeps them running, `catalogue`
says how each is started and when it is ready.
"""
