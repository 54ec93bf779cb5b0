"""The same work in this process or on Ray: jobs are values, cut into chunks that are the same whoever does them."""

from cutaway.jobs.crew import Crew, crew, run
from cutaway.jobs.forecast import Forecast, forecast
from cutaway.jobs.harvests import harvest
from cutaway.jobs.job import Work, dice
from cutaway.jobs.spread import crew_of, spread, sweep

__all__ = ["Crew", "Forecast", "Work", "crew", "crew_of", "dice", "forecast", "harvest", "run", "spread", "sweep"]
