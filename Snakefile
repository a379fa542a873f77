"""The atlas as a graph of jobs: data -> chains of milestones -> probes -> tables and figures.

`snakemake --profile profiles/local` runs the demo study here, `snakemake --profile slurm all` the
paper's studies on a cluster, and `--config study=NAME[,NAME]` any others from params/.
"""

import atexit
import hashlib
import os
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from snakemake.utils import min_version

from barlow_atlas.study import paths
from barlow_atlas.store.adoptions import adoptions, standing
from barlow_atlas.workflow import sources
from barlow_atlas.workflow.jobs import group_rule
from barlow_atlas.errors import AtlasError, not_allowed
from barlow_atlas.study.file import check_taken, load_studies, load_study, study_file
from barlow_atlas.study.sizes import check_sizes

if not workflow.remote_exec:
    # A job that is submitted starts sooner without: they load pandas.
    from barlow_atlas.atlas.published import read_tables
    from barlow_atlas.atlas.studies import claims_of, is_analysed
    from barlow_atlas.data.survey import outdated

min_version("9.27")


for key in config:
    if key not in (known := ["study", "partial", "replace"]):
        raise WorkflowError(str(not_allowed("key of --config", key, known)))
STARTED = time.time()
STUDY_NAMES = str(config.get("study", "demo")).split(",")
# On a command line a truth is a word, in a file a value.
SAID = {key: str(config.get(key, False)).lower() for key in ("replace", "partial")}
for key in SAID:
    if SAID[key] not in ("true", "false"):
        raise WorkflowError(f"{key} = {config[key]!r}: expected true or false")
# Whether what is finished may be trained again, for another value or other code.
REPLACE = SAID["replace"] == "true"
# Whether to report what is there, of a study in which runs are missing.
PARTIAL = SAID["partial"] == "true"
try:
    STUDIES = {name: load_study(study_file(paths.PARAMS, name)) for name in STUDY_NAMES}
    if workflow.remote_exec:
        # What is submitted needs its own study only: others may be edited while it waits.
        EVERY_STUDY, CLAIMS, PAPER_TABLES = STUDIES, [], []
    else:
        EVERY_STUDY = load_studies(paths.PARAMS, logger.warning)
        for name in STUDIES:
            check_sizes(name, STUDIES[name])
            check_taken(name, STUDIES[name], EVERY_STUDY)
        CLAIMS = [entry for name in STUDIES for entry in claims_of(name, STUDIES[name])]
        PAPER_TABLES = read_tables(paths.PAPER_TABLES)
except AtlasError as error:
    raise WorkflowError(str(error))
RUNS = {study: {run.name: run for run in STUDIES[study].runs()} for study in STUDIES}


wildcard_constraints:
    study="|".join(STUDIES),
    dataset="[a-z0-9][a-z0-9_-]*",
    run="[a-z0-9][a-z0-9_-]*",
    epoch="[0-9]+",


report: "workflow/report/workflow.rst"


HELD = ExitStack()
atexit.register(HELD.close)


# What hooks need is imported in them: where nothing is to be done it would only take time.
onstart:
    from barlow_atlas.workflow.private import files_to_make
    from barlow_atlas.workflow.replacing import check_replaced
    from barlow_atlas.workflow.turns import hold_study, tell_wanted

    for name in STUDIES:
        try:
            hold_study(name, HELD, logger.warning)
            if not REPLACE:
                check_replaced(name, STUDIES[name])
            tell_wanted(name, files_to_make(workflow), HELD)
        except AtlasError as error:
            raise WorkflowError(str(error))


onsuccess:
    from barlow_atlas.tools.running import ending

    # Of the studies that have a new report.
    for name in STUDIES:
        page = paths.REPORTS / name / paths.PAGE
        if page.is_file() and page.stat().st_mtime >= STARTED:
            print(*ending(name, STUDIES[name]), sep="\n")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/atlas.smk"


if not workflow.remote_exec:
    for facts, _ in DATA_SETS.values():
        if change := outdated(facts, paths.DATA / facts.name):
            logger.warning(change)


localrules:
    all,
    reports,
    prepare_data,
    take_milestone,
    record,
    collect,
    analyse,
    report_study,
    ledger,


rule all:
    # The last checkpoints beside the reports: committed reports alone do not satisfy a clone.
    default_target: True
    input:
        [report_files(study) for study in STUDIES],
        ledger_files(),
        [
            paths.probed_milestone(study, run, STUDIES[study].milestones_of(run)[-1])
            for study in STUDIES
            for run in RUNS[study].values()
        ],


rule reports:
    # Tables and figures from what is here; see `make report`.
    input:
        [report_files(study) for study in STUDIES],
        ledger_files(),
