"""Which function runs a stage. Names only, so that a command or a launcher imports no more than it needs."""

# stage name -> "module:function", imported only when that stage runs
STAGES = {
    "synth": "adhmr.data.synthetic.stage:run_stage",
    "base": "adhmr.training.run:run_stage",
    "scorer": "adhmr.training.run:run_stage",
    "regressor": "adhmr.training.run:run_stage",
    "dpo": "adhmr.training.run:run_stage",
    "reference": "adhmr.training.reference_stage:run_stage",
    "generate": "adhmr.preference.generate:run_stage",
    "clean": "adhmr.cleaning.clean:run_stage",
    "evaluate": "adhmr.evaluation.evaluate:run_stage",
    "scorers": "adhmr.evaluation.scorers:run_stage",
    "regressors": "adhmr.evaluation.regressors:run_stage",
    "report": "adhmr.evaluation.report:run_stage",
}
