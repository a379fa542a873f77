"""Nothing that is finished is trained again unasked."""

from barlow_atlas.atlas.records import recorded
from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import Study
from barlow_atlas.workflow.jobs import jobs_of, stale_milestones


class ReplaceError(AtlasError):
    """Finished results that would be made anew."""


def check_replaced(name: str, study: Study) -> None:
    """Refuses to train again what is finished, unasked.

    Raises:
        ReplaceError: milestones that are here belong to other parameters, code or data; the message
            names their runs, each with the reason.
    """
    jobs = jobs_of(name, study)
    stale = stale_milestones(name, jobs)
    reasons = {job.run.name: stale[job.file] for job in jobs if job.run and job.file in stale}
    for run in study.runs():
        known = recorded(name, run)
        if known.milestones and known.run != run.model_dump(mode="json"):
            reasons.setdefault(run.name, "recorded with other parameters")
    if reasons:
        told = "\n".join(f"  {run}: {reason}" for run, reason in reasons.items())
        raise ReplaceError(
            f"{len(reasons)} runs of {name} are here, and would be made again in their place:\n"
            f"{told}\n"
            f"`atlas run {name} --replace` does so (`replace=true` in Snakemake's --config). To "
            f"keep them: `atlas new NAME --from {name}` makes a study of the changed values, and "
            f"`atlas adopt --study {name} --prove 4` carries results over a change of code that "
            "changes no number"
        )
