"""The exceptions of taggen.

TaggenError
├── InvalidListing      a listing that breaks the contract: names the field
├── BaseModelError      the base model cannot be had or is of the wrong kind
├── AdapterError        an adapter is damaged, forbidden, or made for another base or merchant
├── StoreUnavailable    the adapter store cannot be reached: try again, nobody's adapter is to blame
├── CorpusError         labelled data that cannot be read: names the file and the line
├── TrainingError       a training run that cannot begin or go on as it was asked to
├── NonFiniteScores     the model answered NaN or infinity for a batch
└── DeviceError         the device failed (out of memory, lost): nobody's listing is to blame
"""


class TaggenError(Exception):
    """Root of everything that taggen raises on purpose."""


class InvalidListing(TaggenError):
    """A listing that breaks the contract.

    `field` is the field at fault, `problem` a short code-like phrase ("missing", "not a string", "too large");
    neither quotes the listing.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class BaseModelError(TaggenError):
    """The base model cannot be loaded, or is not an encoder that can be adapted."""


class AdapterError(TaggenError):
    """An adapter that must not be served: damaged, not allowed, or made for another base or merchant.

    `reason` is a code for machines: missing, size, format, config, tag_set, rules, shapes, values, base, merchant,
    digest, name, taken or smoke.
    """

    def __init__(self, message: str, reason: str = "format") -> None:
        super().__init__(message)
        self.reason = reason


class StoreUnavailable(TaggenError):
    """The adapter store did not do what was asked of it; the same call may well succeed later."""


class CorpusError(TaggenError):
    """Labelled data that cannot be read; the message starts with file:line."""


class TrainingError(TaggenError):
    """A training run that cannot begin or go on: settings that do not fit, a folder or a checkpoint of another run."""


class NonFiniteScores(TaggenError):
    """The model's scores for a micro-batch hold NaN or infinity."""


class DeviceError(TaggenError):
    """The device failed; the same batch may well succeed elsewhere."""
