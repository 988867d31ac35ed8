"""Why something about models is refused.

OnboardError
├── InputError
│   ├── ListRefused      metadata is not signed as it must be, is older, or says what cannot be
│   └── ModelRefused     a model fails a check of its verification
└── UplinkOff            this satellite takes no models: no root of trust, or the library is missing
"""

from __future__ import annotations

from onboard.errors import InputError, OnboardError


class ListRefused(InputError):
    """Signed metadata that is not taken; what was taken before stays."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}; {remedy}")


class ModelRefused(InputError):
    """A model that does not fly."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}; {remedy}")


class UplinkOff(OnboardError):
    """No models are taken here."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}; {remedy}")
