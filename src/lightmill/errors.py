"""Every error that Lightmill raises on purpose.

LightmillError
├── UsageError            exit 2: an option or an argument is wrong
├── RunError              exit 1: the run could not be done
│   ├── InputError        INPUT cannot be used
│   ├── OutputError       OUT cannot be used: in use, full, read-only
│   ├── ChangedConfig     OUT holds a run with other options
│   ├── NameCollision     two items would write one file
│   ├── MissingExtra      an optional package is not installed
│   ├── ModelError        a model cannot be had or loaded: offline, gated, too large, of another kind
│   └── TooManyFailures   --max-failures was reached
└── ItemError             one item fails, the run goes on
    ├── SourceError       its bytes cannot be read
    ├── DecodeError       its bytes are no picture that can be decoded
    │   ├── NotAnImage    they are something else, or nothing
    │   ├── DamagedImage  a picture that is broken beyond use
    │   ├── TooManyPixels a picture above --max-pixels
    │   └── UnsupportedImage  a picture of a kind that nothing here reads
    └── WrongAspect       a panorama that is not 2:1

Messages say what was met, what was wanted, and what to type next.
"""


class LightmillError(Exception):
    """The root: its message is meant for the user."""

    exit_code = 1


class UsageError(LightmillError):
    """An option or an argument is wrong."""

    exit_code = 2


class RunError(LightmillError):
    """The run could not be done."""


class InputError(RunError):
    """INPUT cannot be used."""


class OutputError(RunError):
    """OUT cannot be used."""


class ChangedConfig(RunError):
    """OUT holds a run with other options."""


class NameCollision(RunError):
    """Two items would write one file."""


class MissingExtra(RunError):
    """An optional package is not installed; the message says which extra brings it."""


class ModelError(RunError):
    """A model cannot be had or loaded; the message says what to do."""


class TooManyFailures(RunError):
    """More items failed than --max-failures allows."""


class ItemError(LightmillError):
    """One item fails; the run goes on."""


class SourceError(ItemError):
    """The bytes of an item cannot be read."""


class DecodeError(ItemError):
    """The bytes of an item are no picture that can be decoded."""


class NotAnImage(DecodeError):
    """The bytes are something else than a picture, or nothing."""


class DamagedImage(DecodeError):
    """A picture that is broken beyond use."""


class TooManyPixels(DecodeError):
    """A picture larger than --max-pixels."""


class UnsupportedImage(DecodeError):
    """A picture of a kind that nothing here reads."""


class WrongAspect(ItemError):
    """A panorama whose width is not twice its height."""
