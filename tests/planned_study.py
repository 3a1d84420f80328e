"""A study as it ships, with pretended models and the plans of its phases loaded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from clones import REPO, link_clone
from pretend_models import pretend

from common.jobs import JobKey
from paper import text_study
from paper.study import Start, StudyConfig, StudyRun, load_study
from paper.study_plans import Part, after_sft, comparison, selection, sweeps
from paper.study_run import write_plan
from rl4lms.plan import Experiment, load_plan
from rl4lms.plan.runs import make_jobs

RATES: dict[Start, float] = {"pretrained": 1e-4, "short": 2e-5, "sft": 3e-6}
# The study of a fetched model: test_real_scale.py.
STUDIES = {scale: REPO / path for scale, path in text_study.STUDIES.items() if scale != "real"}


@dataclass
class Phase:
    """A plan: its part of the study, and its experiments with the keys of their jobs, in one order."""

    part: Part
    experiments: list[Experiment]
    keys: list[JobKey]

    def chosen(self, is_wanted: Callable[[StudyRun], bool]) -> list[Experiment]:
        """The experiments of these runs."""
        names = {run.configuration for run in self.part.runs if is_wanted(run)}
        return [experiment for experiment in self.experiments if experiment.configuration in names]

    def named(self, configuration: str) -> Experiment:
        """The first seed of a configuration."""
        return next(e for e in self.experiments if e.configuration == configuration)

    def keys_of(self, configuration: str) -> set[JobKey]:
        """The keys of the jobs of a configuration."""
        pairs = zip(self.experiments, self.keys, strict=True)
        return {key for experiment, key in pairs if experiment.configuration == configuration}


def load_phase(study: StudyConfig, part: Part, seeds: int) -> Phase:
    """Write and load a plan in the working directory, where the models of the study are."""
    loaded = load_plan(write_plan(study, "phase", part, seeds, 1))
    jobs = make_jobs(loaded.plan, loaded.experiments)
    return Phase(part, loaded.experiments, [job.key for job in jobs])


@dataclass
class Planned:
    """A study and its two phases; seeds: of the main one."""

    study: StudyConfig
    selection: Phase | None
    main: Phase
    seeds: int

    def keys(self) -> set[JobKey]:
        """Of all jobs."""
        return {*self.main.keys, *(self.selection.keys if self.selection else ())}


def plan_study(folder: Path, scale: str, seeds: int) -> Planned:
    """All runs of the study of a scale."""
    with chdir(link_clone(folder)):
        study = load_study(STUDIES[scale])
        pretend(study)
        tried = selection(study)
        whole = comparison(study, RATES) + after_sft(study, RATES) + sweeps(study, RATES, seeds)
        first = load_phase(study, tried, 1) if tried.runs else None
        return Planned(study, first, load_phase(study, whole, seeds), seeds)
