"""Pages for people: versions, samples, quarantine, lineage. Plain HTML without scripts; what they show is asked of
`vecap_tasks`, which knows nothing of Airflow."""
