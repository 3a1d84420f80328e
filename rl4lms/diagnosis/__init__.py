"""Which inputs carry no gradient, how sure that is, and what to do: from rewards alone, of any library."""

from rl4lms.diagnosis.diagnose import Diagnosis, diagnose
from rl4lms.diagnosis.groups import DiagnosisError

__all__ = ["Diagnosis", "DiagnosisError", "diagnose"]
