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
    wildcard_constraints:
        run=one_of(TRAINED),
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


rule cool_down:
    # Under the schedule trunk: a milestone, annealed in a branch of its own.
    input:
        parent="results/{study}/checkpoints/{run}/epoch_{epoch}.json",
        data=data_manifest,
        src=run_sources,
    output:
        weights="results/{study}/checkpoints/{run}/cooled/epoch_{epoch}.safetensors",
        manifest="results/{study}/checkpoints/{run}/cooled/epoch_{epoch}.json",
        training="results/{study}/training/{run}/cooled/epoch_{epoch}.jsonl",
    log:
        "logs/{study}/cool_down/{run}/epoch_{epoch}.log",
    benchmark:
        "logs/{study}/cool_down/{run}/epoch_{epoch}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: STUDIES[wildcards.study].threads
    resources:
        gpu=asked("pretrain", "gpu"),
        mem_mb=asked("pretrain", "mem_mb"),
        runtime=asked("pretrain", "runtime"),
    params:
        run=lambda wildcards: RUNS[wildcards.study][wildcards.run].model_dump_json(),
    message:
        "Cooling down {wildcards.run} of {wildcards.study} from epoch {wildcards.epoch}"
    shell:
        "python -m barlow_atlas cool-down --study {wildcards.study} --run {wildcards.run}"
        " --epoch {wildcards.epoch} > {log} 2>&1"


rule import_weights:
    # Foreign weights instead of training; what is imported is probed like all others.
    input:
        file=foreign_file,
        data=data_manifest,
        src=code(sources.IMPORT),
    output:
        weights="results/{study}/checkpoints/{run}/epoch_{epoch}.safetensors",
        manifest="results/{study}/checkpoints/{run}/epoch_{epoch}.json",
    log:
        "logs/{study}/import/{run}/epoch_{epoch}.log",
    wildcard_constraints:
        run=one_of(FOREIGN),
    conda:
        "../../environment.yml"
    params:
        run=lambda wildcards: RUNS[wildcards.study][wildcards.run].model_dump_json(),
    message:
        "Importing {wildcards.run} of {wildcards.study} at epoch {wildcards.epoch}"
    shell:
        "python -m barlow_atlas import-weights --study {wildcards.study}"
        " --run {wildcards.run} --epoch {wildcards.epoch} > {log} 2>&1"
