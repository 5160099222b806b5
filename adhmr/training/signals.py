"""The names of adhmr.signals, for those who still look for them here."""

from adhmr.signals import EXIT_REQUEUE, SIGNALS, StopRequest, seconds_of_the_job

__all__ = ["EXIT_REQUEUE", "SIGNALS", "StopRequest", "seconds_of_the_job"]
