"""Every milestone is probed once, by all probes of its study."""


rule probe:
    input:
        # The manifest stands for the weights it names: small, and compared by content.
        manifest=probed,
        data=data_manifest,
        others=other_manifests,
    output:
        "results/{study}/probes/{run}/epoch_{epoch}.json",
    log:
        "logs/{study}/probe/{run}/epoch_{epoch}.log",
    benchmark:
        "logs/{study}/probe/{run}/epoch_{epoch}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: STUDIES[wildcards.study].threads
    resources:
        gpu=asked("probe", "gpu"),
        mem_mb=asked("probe", "mem_mb"),
        runtime=asked("probe", "runtime"),
    params:
        code=probing_code,
        probes=lambda wildcards: STUDIES[wildcards.study].probes.model_dump_json(),
        # Such as those of transfer targets: their statistics normalise the images.
        facts=probe_facts,
    message:
        "Probing {wildcards.run} of {wildcards.study} at epoch {wildcards.epoch}"
    shell:
        "python -m barlow_atlas probe --study {wildcards.study} --run {wildcards.run}"
        " --epoch {wildcards.epoch} > {log} 2>&1"
