"""Every error a user can meet. Each message says what broke, where, and what to do."""

from __future__ import annotations


class FFCompilerError(Exception):
    """Base of all errors raised on purpose by ffcompiler."""


class CaptureError(FFCompilerError):
    """The function cannot be turned into a graph that computes the same thing."""


class CausalityError(FFCompilerError):
    """The proof that every step reads only earlier steps does not go through."""


class ScheduleError(FFCompilerError):
    """A schedule was asked for by name that is unknown, or not sound for this system."""


class InvalidPlanError(FFCompilerError):
    """A plan breaks a rule that every plan obeys."""


class SignatureError(FFCompilerError):
    """The arguments of a call do not have the shapes, dtypes or devices that the plan was made for."""


class ArtifactError(FFCompilerError):
    """A file is not an artifact that this build can read."""


class BranchError(FFCompilerError):
    """A test on values comes out otherwise than when an artifact was compiled, and its function is not there to run."""


class UsageError(FFCompilerError):
    """A command or option cannot be carried out as given."""
