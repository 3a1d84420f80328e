"""Names that moved to `rft_diagnose`, kept here for one version: import them from there."""

from rft_diagnose import Diagnosis, DiagnosisError, diagnose

__all__ = ["Diagnosis", "DiagnosisError", "diagnose"]
