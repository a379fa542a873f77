"""Every milestone is probed once, by all probes of its study."""

PROBE = (
    "python -m barlow_atlas probe --study {wildcards.study} --run {params.names}"
    " --epoch {wildcards.epoch} > {log} 2>&1"
)


rule probe:
    input:
        # The manifest stands for the weights it names: small, and compared by content.
        manifests=probed,
        data=data_manifest,
        others=other_manifests,
    output:
        "results/{study}/probes/{run}/epoch_{epoch}.json",
    log:
        "logs/{study}/probe/{run}/epoch_{epoch}.log",
    benchmark:
        "logs/{study}/probe/{run}/epoch_{epoch}.tsv"
    wildcard_constraints:
        study=one_of(APART),
    conda:
        "../../environment.yml"
    threads: asked_threads("probe")
    resources:
        nodes=asked("probe", "nodes"),
        tasks_per_node=asked_tasks("probe"),
        gpu=asked("probe", "gpu"),
        mem_mb=asked("probe", "mem_mb"),
        runtime=asked("probe", "runtime"),
    params:
        code=probing_code,
        probes=lambda wildcards: STUDIES[wildcards.study].probes.model_dump_json(),
        # Such as those of transfer targets: their statistics normalise the images.
        facts=probe_facts,
        names="{run}",
    message:
        "Probing {params.names} of {wildcards.study} at epoch {wildcards.epoch}"
    shell:
        PROBE


use rule probe as probe_imported with:
    # Of studies whose seeds are probed together: foreign weights have none.
    wildcard_constraints:
        study=one_of(set(STUDIES) - APART),
        run=one_of(FOREIGN),


for study, seeds, epochs in TOGETHER:

    rule:
        # Milestones of several seeds, or several milestones, probed in turn by one program.
        name:
            group_rule("probe", study, seeds, epochs[-1])
        input:
            manifests=partial(probed, seeds=seeds, epochs=epochs),
            data=data_manifest,
            others=other_manifests,
        output:
            of_each(seeds, epochs, "results/{study}/probes/{run}/epoch_{epoch}.json"),
        log:
            of_group(seeds, epochs, "logs/{study}/probe/{run}/epoch_{epoch}.log"),
        benchmark:
            of_group(seeds, epochs, "logs/{study}/probe/{run}/epoch_{epoch}.tsv")
        wildcard_constraints:
            study=study,
            stem=one_of(TOGETHER[study, seeds, epochs]),
        conda:
            "../../environment.yml"
        threads: asked_threads("probe")
        resources:
            nodes=asked("probe", "nodes"),
            tasks_per_node=asked_tasks("probe"),
            gpu=asked("probe", "gpu"),
            mem_mb=asked("probe", "mem_mb"),
            runtime=asked("probe", "runtime"),
        params:
            code=probing_code,
            probes=lambda wildcards: STUDIES[wildcards.study].probes.model_dump_json(),
            facts=probe_facts,
            names=[f"{{stem}}-s{seed}" for seed in seeds],
            epochs=epochs,
        message:
            f"Probing {told_runs(seeds)} of {{wildcards.study}} at {told_epochs(epochs)}"
        shell:
            PROBE.replace("{wildcards.epoch}", "{params.epochs}")
