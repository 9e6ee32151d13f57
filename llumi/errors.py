"""Every error that LLUMI raises on purpose.

    LlumiError
    |-- ConfigError      a key or value of ray_config.yaml or --set
    |-- StoreError       the store is not there, or refuses
    |-- ArtifactError    an artifact is missing, incomplete or of the wrong kind
    |-- CorpusError      dumps that cannot be read as what they claim to be
    |-- PairsError       a file of pairs that is none, or rules that leave nothing
    |-- RatingsError     ratings that contradict themselves
    |-- ModelError       a folder that is no model, or a model in the wrong place of the lineage
    |-- TrainError       a run that failed on its workers
    |-- EngineError      an engine that cannot answer a request
    |   |-- PromptTooLongError
    |   `-- PromptRefusedError
    |-- ServeError       the service cannot start, or does not answer
    |   |-- AccessError      a key that cannot be made, found or changed as asked
    |   `-- AuditError       an audit log that cannot be written, or whose chain does not hold
    |-- JobError         a cluster that takes no job, or knows none as asked
    |   `-- JobUnreachableError
    `-- RateError        a study that cannot be made, found or used as asked
        `-- DatabaseError    the database of the rating page does not answer

A message is one line for a reader in the middle of an outage: where, what is wrong, what would be right. It never
holds text of a post, a draft or a reply.
"""


class LlumiError(Exception):
    """Base of the tree; the command line turns it into one line on stderr and exit code 2."""


class ConfigError(LlumiError):
    """A key or a value of the configuration is wrong."""


class StoreError(LlumiError):
    """The store cannot be reached, or refuses what was asked."""


class ArtifactError(LlumiError):
    """An artifact is missing, incomplete, or not what its manifest says."""


class CorpusError(LlumiError):
    """A corpus folder or file cannot be read as a dump."""


class PairsError(LlumiError):
    """A file of pairs is not what it should be, or the rules for pairs leave nothing to train on."""


class RatingsError(LlumiError):
    """Ratings are not what they should be: a score off the scale, two first scores, an arm against itself."""


class ModelError(LlumiError):
    """A folder is no usable model, or a model stands in the wrong place of the lineage."""


class TrainError(LlumiError):
    """A training run failed on its workers."""


class EngineError(LlumiError):
    """An engine cannot be opened or cannot answer."""


class PromptTooLongError(EngineError):
    """The prompt leaves no room for a reply within the model's context."""


class PromptRefusedError(EngineError):
    """The model's chat template does not take this conversation."""


class ServeError(LlumiError):
    """The service cannot start, or does not answer."""


class AccessError(ServeError):
    """A key of the service cannot be made, found or changed as asked."""


class AuditError(ServeError):
    """The audit log cannot be written, or its chain does not hold."""


class JobError(LlumiError):
    """A cluster takes no job, or none can be followed or stopped as asked."""


class JobUnreachableError(JobError):
    """The cluster's dashboard does not answer."""


class RateError(LlumiError):
    """A study of the rating page cannot be made, found or used as asked."""


class DatabaseError(RateError):
    """The database of the rating page does not answer."""
