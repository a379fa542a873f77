"""What the rules share: paths, and what a job of a study depends on and asks for."""


def training_code(wildcards, seeds=None):
    """What code a run's milestones are made by, or count as made by."""
    run, *_ = runs_of(wildcards, seeds)
    return standing(wildcards.study, sources.training_code(run))


def probing_code(wildcards):
    code = sources.probing_code(STUDIES[wildcards.study])
    return standing(wildcards.study, code)


def code_of(step):
    """What code a step is done by: told of the jobs there are, since it takes a while to read."""
    return lambda wildcards: sources.fingerprint(step)


def labelling_code(step):
    """What code a step is done by that reads the answers of its study's probes."""
    return lambda wildcards: sources.fingerprint(
        step, STUDIES[wildcards.study].probes.kinds()
    )


# Trained and imported runs have rules of their own, told apart by name.
FOREIGN = {run.name for study in STUDIES.values() for run in study.imported()}


# What trains nothing takes another study's milestones. Where a study trains and probes seeds or
# milestones together, each group of them has rules of its own, for runs of these stems.
TAKING = {study for study in STUDIES if STUDIES[study].milestones_from}
APART = {study for study in STUDIES if not STUDIES[study].grouped}
TOGETHER = {}
for study in STUDIES:
    for first, *others in STUDIES[study].groups() if study not in APART else []:
        seeds = (first.seed, *(run.seed for run in others))
        for epochs in STUDIES[study].stretches(first):
            stems = TOGETHER.setdefault((study, seeds, epochs), set())
            stems.add(first.name.removesuffix(f"-s{first.seed}"))


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


def parent_manifests(wildcards, seeds=None, epochs=None):
    """The manifests of the milestones before these; nothing for untrained networks."""
    first, *_ = epochs or [int(wildcards.epoch)]
    parent = STUDIES[wildcards.study].parent(first)
    if parent is None:
        return []
    return [
        paths.manifest_file(wildcards.study, run.name, parent)
        for run in runs_of(wildcards, seeds)
    ]


def data_manifest(wildcards):
    return paths.data_manifest(STUDIES[wildcards.study].data.name)


def other_manifests(wildcards):
    """The data sets that a study's probes look at beside its own."""
    _, *others = STUDIES[wildcards.study].data_sets()
    return [paths.data_manifest(other.name) for other in others]


def probe_facts(wildcards):
    asked = STUDIES[wildcards.study].probes.asked()
    return [fact for probe in asked for fact in probe.facts()]


def theirs(wildcards):
    """The manifest of a milestone that another study makes, which is here or made by this call."""
    other = STUDIES[wildcards.study].milestones_from
    manifest = paths.manifest_file(other, wildcards.run, int(wildcards.epoch))
    if other not in STUDIES and not manifest.is_file():
        raise WorkflowError(
            f"{wildcards.study} takes the milestones of {other}, and {manifest} is not here. If it "
            f"was shared, `dvc pull {paths.RESULTS / other / 'checkpoints'}` brings it; else run "
            f"both: --config study={other},{wildcards.study}"
        )
    return manifest


def foreign_file(wildcards):
    run = RUNS[wildcards.study][wildcards.run]
    file = STUDIES[wildcards.study].foreign[run.method].files[int(wildcards.epoch)]
    return Path(file).expanduser()


def probed(wildcards, seeds=None, epochs=None):
    """The manifests of what is probed: under the schedule trunk, the annealed branches."""
    return [
        paths.probed_milestone(wildcards.study, run, epoch)
        for epoch in epochs or [int(wildcards.epoch)]
        for run in runs_of(wildcards, seeds)
    ]


def runs_of(wildcards, seeds=None):
    """The run of a job, or those of a group of seeds, whose names begin with the job's `stem`."""
    known = RUNS[wildcards.study]
    if seeds is None:
        return [known[wildcards.run]]
    return [known[f"{wildcards.stem}-s{seed}"] for seed in seeds]


def of_each(seeds, epochs, path):
    """A milestone's path, for each seed and milestone of a group."""
    return [of_group([seed], [epoch], path) for epoch in epochs for seed in seeds]


def of_group(seeds, epochs, path):
    """A milestone's path, for a group as a whole: with all its seeds, and its last milestone."""
    run = f"{{stem}}-s{'_'.join(map(str, seeds))}"
    return path.replace("{run}", run).replace("{epoch}", f"{epochs[-1]:04d}")


def told_runs(seeds):
    """The runs of a group, as a job's message has them."""
    told = " ".join(map(str, seeds))
    stem = "{wildcards.stem}"
    return f"{stem}, seeds {told}," if len(seeds) > 1 else f"{stem}-s{told}"


def told_epochs(epochs):
    """The milestones of a group, as a job's message has them."""
    return f"epoch{'s' * (len(epochs) > 1)} {' '.join(map(str, epochs))}"


def identity(wildcards, seeds=None):
    """All that decides a run's weights but its seed, which its name ends with."""
    run, *_ = runs_of(wildcards, seeds)
    return run.model_dump_json(exclude={"seed"})


def asked(kind, resource):
    """What a study asks of the cluster for one kind of job; absent where it asks for none."""
    return lambda wildcards: getattr(
        getattr(STUDIES[wildcards.study].resources, kind), resource
    )


def asked_tasks(kind):
    """Tasks on each node: one of a single node, on which the step starts its processes itself."""

    def tasks(wildcards):
        asked = getattr(STUDIES[wildcards.study].resources, kind)
        return asked.processes_per_node if asked.nodes > 1 else 1

    return tasks


def asked_threads(kind):
    """CPUs of a task: of all processes that are one task, or of one."""

    def threads(wildcards):
        study = STUDIES[wildcards.study]
        asked = getattr(study.resources, kind)
        return study.threads * (asked.processes_per_node if asked.nodes == 1 else 1)

    return threads


def report_files(study):
    return [paths.REPORTS / study / name for name in paths.REPORTED]


def ledger_files():
    """What is said over all studies: the ledger of claims, and the papers' tables."""
    tables = paths.files_of(PAPER_TABLES, paths.TABLE_ENDINGS)
    return [
        *(paths.REPORTS / name for name in paths.LEDGER),
        *(paths.REPORTS / "tables" / name for name in tables),
    ]


def tested_claims(wildcards):
    """The claims that a study tests, as text: another claim is another analysis."""
    return [
        f"{entry.id} {entry.lines} {entry.claim.model_dump_json()}"
        for entry in CLAIMS
        if entry.study == wildcards.study
    ]


def probe_files(wildcards):
    run = RUNS[wildcards.study][wildcards.run]
    return here(
        paths.probe_file(wildcards.study, run, epoch)
        for epoch in STUDIES[wildcards.study].milestones_of(run)
    )


def training_files(wildcards):
    """The training metrics of a run, and of the branches that are annealed from its milestones."""
    run = RUNS[wildcards.study][wildcards.run]
    if run.name in FOREIGN or wildcards.study in TAKING:
        return []
    return here(
        paths.training_file(wildcards.study, run.name, epoch, cooled)
        for epoch in STUDIES[wildcards.study].milestones_of(run)
        for cooled in ((False, True) if run.cooldown_epochs and epoch else (False,))
    )


def here(files):
    """All of these files; with `--config partial=true` those that are there."""
    return [file for file in files if not PARTIAL or file.is_file()]


def records(wildcards):
    """The records of a study's runs; with `partial=true` of those of which anything is here."""
    return [
        paths.record_file(wildcards.study, run.name)
        for run in RUNS[wildcards.study].values()
        if not PARTIAL or anything_of(wildcards.study, run)
    ]


def anything_of(study, run):
    files = [
        *(
            paths.probe_file(study, run, epoch)
            for epoch in STUDIES[study].milestones_of(run)
        ),
        paths.record_file(study, run.name),
    ]
    return any(file.is_file() for file in files)


def what_studies_are():
    """A hash of all studies, but for how and where they are run."""
    how = {"data_mirrors", "resources", "seeds_together", "milestones_together"}
    told = [
        f"{name} {study.model_dump_json(exclude=how)}"
        for name, study in EVERY_STUDY.items()
    ]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def results_of_studies(wildcards):
    """What is kept of all studies that have been analysed, or will be by this call."""
    return [
        file
        for name in EVERY_STUDY
        if name in STUDIES or is_analysed(name)
        for file in (
            *(paths.RESULTS / name / table for table in paths.KEPT_TABLES),
            *(
                paths.record_file(name, run.name)
                for run in EVERY_STUDY[name].runs()
                if paths.record_file(name, run.name).is_file()
                or (name in STUDIES and not PARTIAL)
            ),
        )
    ]
