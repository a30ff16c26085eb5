"""Shared code of the DAGs and pages: connects Airflow to `vecap_tasks`, which does not depend on Airflow.

This package is in the plugins folder because Airflow adds that folder to the path of processes that parse DAGs.
"""
