"""The chain of milestones: each segment starts from the milestone before it."""


rule pretrain:
    input:
        parent=parent_manifest,
        data=data_manifest,
        src=run_sources,
    output:
        weights="results/{study}/checkpoints/{run}/epoch_{epoch}.safetensors",
        manifest="results/{study}/checkpoints/{run}/epoch_{epoch}.json",
        training="results/{study}/training/{run}/epoch_{epoch}.jsonl",
    log:
        "logs/{study}/pretrain/{run}/epoch_{epoch}.log",
    benchmark:
        "logs/{study}/pretrain/{run}/epoch_{epoch}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: STUDIES[wildcards.study].threads
    resources:
        gpu=asked("pretrain", "gpu"),
        mem_mb=asked("pretrain", "mem_mb"),
        runtime=asked("pretrain", "runtime"),
    params:
        # All that decides the weights, so that a change of it, and of nothing else, retrains.
        run=lambda wildcards: RUNS[wildcards.study][wildcards.run].model_dump_json(),
    message:
        "Training {wildcards.run} of {wildcards.study} to epoch {wildcards.epoch}"
    shell:
        "python -m barlow_atlas pretrain --study {wildcards.study} --run {wildcards.run}"
        " --until {wildcards.epoch} > {log} 2>&1"
