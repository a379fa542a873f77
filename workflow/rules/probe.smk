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
        study=one_of({study for study, _ in TOGETHER}),
        run=one_of(FOREIGN),


for number, (study, seeds) in enumerate(TOGETHER):

    rule:
        # The same milestone of several seeds, probed in turn by one program.
        name:
            f"probe_together_{number}"
        input:
            manifests=partial(probed, seeds=seeds),
            data=data_manifest,
            others=other_manifests,
        output:
            of_seeds(seeds, "results/{study}/probes/{run}/epoch_{epoch}.json"),
        log:
            of_group(seeds, "logs/{study}/probe/{run}/epoch_{epoch}.log"),
        benchmark:
            of_group(seeds, "logs/{study}/probe/{run}/epoch_{epoch}.tsv")
        wildcard_constraints:
            study=study,
            stem="[a-z0-9][a-z0-9_-]*",
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
            names=of_seeds(seeds, "{run}"),
        message:
            f"Probing {told(seeds)} of {{wildcards.study}} at epoch {{wildcards.epoch}}"
        shell:
            PROBE
