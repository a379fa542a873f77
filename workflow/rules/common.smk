"""What the rules share: paths, and what a job of a study depends on and asks for."""


def code(files):
    """Source files relative to the working directory, so that a clone may be moved."""
    return [os.path.relpath(file) for file in files]


# Trained and imported runs have rules of their own, told apart by name.
TRAINED = {run.name for study in STUDIES.values() for run in study.trained()}
FOREIGN = {run.name for study in STUDIES.values() for run in study.imported()}


def one_of(names):
    """A wildcard's pattern; without names one that matches nothing."""
    return "|".join(sorted(names)) or "(?!)"


def data_owners():
    """For each data set its facts and a study that names it; studies must agree on what it is."""
    owners = {}
    for study in STUDIES:
        for data_set in STUDIES[study].data_sets():
            facts, first = owners.setdefault(data_set.name, (data_set, study))
            if facts != data_set:
                raise WorkflowError(
                    f"The studies {first} and {study} give the data set {data_set.name} different "
                    "paths or stored sizes, and both would be prepared in "
                    f"results/data/{data_set.name}: give one of them another name."
                )
    return owners


DATA_SETS = data_owners()


def parent_manifest(wildcards):
    """The manifest of the milestone before this one; nothing for the untrained network."""
    parent = STUDIES[wildcards.study].parent(int(wildcards.epoch))
    if parent is None:
        return []
    folder = paths.of_run("checkpoints", wildcards.study, wildcards.run)
    return paths.milestone_path(folder, parent, ".json")


def data_manifest(wildcards):
    return paths.DATA / STUDIES[wildcards.study].data.name / "manifest.json"


def target_manifests(wildcards):
    """The data sets that a study's probes are transferred to."""
    _, *targets = STUDIES[wildcards.study].data_sets()
    return [paths.DATA / target.name / "manifest.json" for target in targets]


def target_facts(wildcards):
    transfer = STUDIES[wildcards.study].probes.transfer
    return [
        TARGETS[name].model_dump_json()
        for name in (transfer.targets if transfer else ())
    ]


def foreign_file(wildcards):
    run = RUNS[wildcards.study][wildcards.run]
    return STUDIES[wildcards.study].foreign[run.method].files[int(wildcards.epoch)]


def probed(wildcards):
    """The manifest of what is probed: under the schedule trunk, the annealed branch."""
    run = RUNS[wildcards.study][wildcards.run]
    return paths.probed_milestone(wildcards.study, run, int(wildcards.epoch))


def run_sources(wildcards):
    method = type(RUNS[wildcards.study][wildcards.run].settings)
    return code(sources.pretrain_sources(method))


def asked(kind, resource):
    """What a study asks of the cluster for one kind of job; absent where it asks for none."""
    return lambda wildcards: getattr(
        getattr(STUDIES[wildcards.study].resources, kind), resource
    )


def report_files(study):
    return [paths.REPORTS / study / name for name in paths.REPORT_FILES]


def probe_files(wildcards):
    return [
        paths.probe_file(wildcards.study, run, epoch)
        for run in RUNS[wildcards.study].values()
        for epoch in STUDIES[wildcards.study].milestones_of(run)
    ]
