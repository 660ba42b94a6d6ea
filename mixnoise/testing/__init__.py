"""The conformance kit: what the library relies on in a noise, as checks.

:func:`check_noise` runs them all and returns a report. In a plugin's own tests,
:func:`parametrize_noise_checks` makes one test of each::

    from mixnoise.testing import parametrize_noise_checks

    @parametrize_noise_checks([MyNoise(rate=0.3), MyNoise(rate=1.0)])
    def test_conformance(check):
        check()

:func:`noise_checks` gives them one by one, with what each asks for in its ``description``.
"""

from mixnoise.testing.kit import NoiseCheck, check_noise, noise_checks
from mixnoise.testing.parametrize import parametrize_noise_checks
from mixnoise.testing.report import Report, Result, Status

__all__ = [
    "NoiseCheck",
    "Report",
    "Result",
    "Status",
    "check_noise",
    "noise_checks",
    "parametrize_noise_checks",
]
