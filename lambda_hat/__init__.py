"""Lambda-Hat: local learning coefficients with references, tuned samplers and honest errors.

Data flows one way. The stops of the line, in order, each a module or a folder:

    YAML -> Config                   lambda_hat.conf
    Config -> Problem                lambda_hat.problems
    Problem -> Target                lambda_hat.target
    Target -> Draws                  lambda_hat.samplers
    Draws -> Diagnostics             lambda_hat.diagnostics
    Draws -> Estimate                lambda_hat.llc
    Problem -> Reference             lambda_hat.references
    TrialSpec -> Future[TrialResult] lambda_hat.execution
    Reference -> Trials              lambda_hat.tuning
    Trials -> Parquet                lambda_hat.tables
    Parquet -> Report                lambda_hat.report

`lambda_hat.entrypoints` holds the commands, each of which is the line; `lambda_hat.runners` is
what a worker calls, and what a person may call by hand.
"""
