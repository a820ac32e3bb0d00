"""Flow: everything, from data to promotion."""

from __future__ import annotations

from prefect import flow

from flows.build_benchmark import build_benchmark
from flows.build_dataset import build_dataset
from flows.dispatch import elsewhere, stage
from flows.evaluate import evaluate
from flows.pretrain_base import pretrain_base
from flows.promote import promote
from flows.train_rl import train_rl
from flows.train_sft import train_sft
from mlflow_config.settings import Stage
from tasks import parameters, promoting, retraining
from tasks.retraining import Retraining


@flow(name="retrain", flow_run_name="retrain-{profile}")
def retrain(profile: str = "tiny") -> Retraining:
    """Build the data, train base, SFT and RL, evaluate all three, and let the gates decide on the last.

    Every stage that was done before with the same code, parameters and inputs is reused, one that was cut off goes on.
    """
    chosen = parameters.load(profile)
    promoting.policy_of(profile)  # a mistake there shows before the trainings, not after them
    with retraining.tracked(chosen) as parent:
        common = {"profile": profile, "parent_run": parent.run_id}
        stage(build_dataset, Stage.BUILD_DATASET, **common)
        stage(build_benchmark, Stage.BUILD_BENCHMARK, **common)
        base = stage(pretrain_base, Stage.PRETRAIN_BASE, **common)
        sft = stage(train_sft, Stage.TRAIN_SFT, base=base.model_id, **common)
        rl = stage(train_rl, Stage.TRAIN_RL, sft=sft.model_id, **common)
        scores = [stage(evaluate, Stage.EVALUATE, model=model.model_id, **common) for model in (base, sft, rl)]
        decision = promote(model=rl.model_id, **common)
        if decision.verdict == "waiting":
            elsewhere(promote, f"promote-{decision.decision}", model=rl.model_id, **common)  # a person may take days
        return retraining.conclude(parent, chosen, scores, decision)
