"""What the rules share: paths, and what a job of a study depends on and asks for."""

REPORT_FILES = [
    "curves.png",
    "curves.pdf",
    "milestones.csv",
    "milestones.md",
    "milestones.tex",
]


def code(files):
    """Source files relative to the working directory, so that a clone may be moved."""
    return [os.path.relpath(file) for file in files]


def milestone(kind, study, run, epoch, suffix):
    """Path of one milestone's file, e.g. results/demo/probes/<run>/epoch_0100.json."""
    return f"results/{study}/{kind}/{run}/epoch_{epoch:04d}{suffix}"


def data_set(study):
    data = STUDIES[study].data
    return resolve(data.name, data.path, data.stored_size)


def data_owners():
    """For each data set a study that names it; studies must agree on what it is."""
    owners = {}
    for study in STUDIES:
        name = STUDIES[study].data.name
        if data_set(owners.setdefault(name, study)) != data_set(study):
            raise WorkflowError(
                f"The studies {owners[name]} and {study} give the data set {name} different paths "
                "or stored sizes, and both would be prepared in "
                f"results/data/{name}: give one of them another name."
            )
    return owners


DATA_OWNER = data_owners()


def parent_manifest(wildcards):
    """The manifest of the milestone before this one; nothing for the untrained network."""
    parent = STUDIES[wildcards.study].parent(int(wildcards.epoch))
    if parent is None:
        return []
    return milestone("checkpoints", wildcards.study, wildcards.run, parent, ".json")


def data_manifest(wildcards):
    return f"results/data/{STUDIES[wildcards.study].data.name}/manifest.json"


def run_sources(wildcards):
    method = type(RUNS[wildcards.study][wildcards.run].settings)
    return code(sources.pretrain_sources(method))


def asked(kind, resource):
    """What a study asks of the cluster for one kind of job; absent where it asks for none."""
    return lambda wildcards: getattr(
        getattr(STUDIES[wildcards.study].resources, kind), resource
    )


def report_files(study):
    return [f"reports/{study}/{name}" for name in REPORT_FILES]


def probe_files(wildcards):
    return [
        milestone("probes", wildcards.study, run, epoch, ".json")
        for run in RUNS[wildcards.study]
        for epoch in STUDIES[wildcards.study].milestones
    ]
