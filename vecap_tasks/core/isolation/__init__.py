"""Runs functions on untrusted bytes in child processes with limits of CPU time and memory, which may also crash."""
