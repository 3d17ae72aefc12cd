"""Pydantic models of the job file and how it is loaded."""
