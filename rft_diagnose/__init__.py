"""Which inputs carry no gradient, how sure that is, and what to do: from rewards alone, of any library."""

from rft_diagnose.diagnose import Diagnosis, diagnose
from rft_diagnose.errors import DiagnosisError

__all__ = ["Diagnosis", "DiagnosisError", "diagnose"]
