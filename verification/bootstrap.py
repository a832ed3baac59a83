"""How sure a skill is: days are drawn again, because the forecasts of one day share their weather."""

import numpy as np

DRAWS = 1000
INTERVAL = (0.05, 0.95)  # a 90 % interval


def skill_interval(days: dict[str, tuple[float, float]]) -> list[float] | None:
    """The 90 % interval of 1 - RMSE / RMSE of persistence, from {day: (squared error, squared error of persistence)},
    both summed over the same cells and cases of that day of initial time.

    None where there is one day only, or persistence is perfect: nothing can be said. The draws are the same every
    time, so that the same forecast gives the same interval.
    """
    sums = np.array(list(days.values()))
    if len(sums) < 2 or not (sums[:, 1] > 0).any():
        return None
    draws = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS)
    error, reference = (draws @ sums).T
    skill = 1 - np.sqrt(error[reference > 0] / reference[reference > 0])
    return [float(v) for v in np.quantile(skill, INTERVAL)]
