"""Flow: find what crashes and hands have left behind, and mend what can be mended."""

from __future__ import annotations

from prefect import flow

from tasks import checkup
from tasks.checkup import Checkup


@flow(name="doctor", flow_run_name="doctor")
def doctor(model: str | None = None, repair: bool = True) -> Checkup:
    """Close dead runs, free held slots, mark half-registered versions, set moved aliases right; each with its reason.

    Args:
        model: name of the registered model; by default that of the settings.
        repair: mend what can be mended; nothing is deleted.
    """
    found = checkup.examine_everything(model, repair)
    checkup.show(found)
    found.raise_for_unmended()
    return found
