"""Interventions in a running field: silence, clamp, inject, lesion and scale, over given times, for named units."""

from vars_dyn.interventions.base import Intervention, of_class
from vars_dyn.interventions.clamp import Clamp
from vars_dyn.interventions.course import Course
from vars_dyn.interventions.inject import Inject
from vars_dyn.interventions.intervened import Intervened, with_interventions
from vars_dyn.interventions.lesion import Lesion
from vars_dyn.interventions.scale import Scale
from vars_dyn.interventions.silence import Silence

__all__ = [
    "Clamp",
    "Course",
    "Inject",
    "Intervened",
    "Intervention",
    "Lesion",
    "Scale",
    "Silence",
    "of_class",
    "with_interventions",
]
