"""What the DAGs share: Airflow on one side, `vecap_tasks` (which knows nothing of Airflow) on the other.

It lies in the plugins folder because Airflow puts that on the path of every process that reads a DAG.
"""
