"""The chain of milestones: each segment starts from the milestone before it."""

PRETRAIN = (
    "python -m barlow_atlas pretrain --study {wildcards.study} --run {params.names}"
    " --until {wildcards.epoch} > {log} 2>&1"
)


rule pretrain:
    input:
        parents=parent_manifests,
        data=data_manifest,
    output:
        weights="results/{study}/checkpoints/{run}/epoch_{epoch}.safetensors",
        manifest="results/{study}/checkpoints/{run}/epoch_{epoch}.json",
        training="results/{study}/training/{run}/epoch_{epoch}.jsonl",
    log:
        "logs/{study}/pretrain/{run}/epoch_{epoch}.log",
    benchmark:
        "logs/{study}/pretrain/{run}/epoch_{epoch}.tsv"
    wildcard_constraints:
        study=one_of(APART - TAKING),
        run=one_of({run.name for study in APART for run in STUDIES[study].trained()}),
    conda:
        "../../environment.yml"
    threads: asked_threads("pretrain")
    resources:
        nodes=asked("pretrain", "nodes"),
        tasks_per_node=asked_tasks("pretrain"),
        gpu=asked("pretrain", "gpu"),
        mem_mb=asked("pretrain", "mem_mb"),
        runtime=asked("pretrain", "runtime"),
    params:
        # So that a change of what decides the weights, and of nothing else, retrains.
        run=identity,
        code=training_code,
        names="{run}",
    message:
        "Training {wildcards.run} of {wildcards.study} to epoch {wildcards.epoch}"
    shell:
        PRETRAIN


for study, seeds, epochs in TOGETHER:
    if study in TAKING:
        continue

    rule:
        # Segments of several seeds, or several segments, trained in turn by one program.
        name:
            group_rule("pretrain", study, seeds, epochs[-1])
        input:
            parents=partial(parent_manifests, seeds=seeds, epochs=epochs),
            data=data_manifest,
        output:
            weights=of_each(
                seeds,
                epochs,
                "results/{study}/checkpoints/{run}/epoch_{epoch}.safetensors",
            ),
            manifest=of_each(
                seeds, epochs, "results/{study}/checkpoints/{run}/epoch_{epoch}.json"
            ),
            training=of_each(
                seeds, epochs, "results/{study}/training/{run}/epoch_{epoch}.jsonl"
            ),
        log:
            of_group(seeds, epochs, "logs/{study}/pretrain/{run}/epoch_{epoch}.log"),
        benchmark:
            of_group(seeds, epochs, "logs/{study}/pretrain/{run}/epoch_{epoch}.tsv")
        wildcard_constraints:
            study=study,
            stem=one_of(TOGETHER[study, seeds, epochs]),
        conda:
            "../../environment.yml"
        threads: asked_threads("pretrain")
        resources:
            nodes=asked("pretrain", "nodes"),
            tasks_per_node=asked_tasks("pretrain"),
            gpu=asked("pretrain", "gpu"),
            mem_mb=asked("pretrain", "mem_mb"),
            runtime=asked("pretrain", "runtime"),
        params:
            run=partial(identity, seeds=seeds),
            code=partial(training_code, seeds=seeds),
            names=[f"{{stem}}-s{seed}" for seed in seeds],
            epochs=epochs,
        message:
            f"Training {told_runs(seeds)} of {{wildcards.study}} to epoch {epochs[-1]}"
        shell:
            PRETRAIN.replace("{wildcards.epoch}", "{params.epochs}")


rule cool_down:
    # Under the schedule trunk: a milestone, annealed in a branch of its own.
    input:
        parent="results/{study}/checkpoints/{run}/epoch_{epoch}.json",
        data=data_manifest,
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
    threads: asked_threads("pretrain")
    resources:
        nodes=asked("pretrain", "nodes"),
        tasks_per_node=asked_tasks("pretrain"),
        gpu=asked("pretrain", "gpu"),
        mem_mb=asked("pretrain", "mem_mb"),
        runtime=asked("pretrain", "runtime"),
    params:
        run=identity,
        code=training_code,
    message:
        "Cooling down {wildcards.run} of {wildcards.study} from epoch {wildcards.epoch}"
    shell:
        "python -m barlow_atlas cool-down --study {wildcards.study} --run {wildcards.run}"
        " --epoch {wildcards.epoch} > {log} 2>&1"


rule take_milestone:
    # Another study's, as it is: its manifest names who trained it.
    input:
        theirs,
    output:
        weights="results/{study}/checkpoints/{run}/epoch_{epoch}.safetensors",
        manifest="results/{study}/checkpoints/{run}/epoch_{epoch}.json",
    log:
        "logs/{study}/take_milestone/{run}/epoch_{epoch}.log",
    wildcard_constraints:
        study=one_of(TAKING),
        run=one_of({run.name for study in TAKING for run in STUDIES[study].trained()}),
    conda:
        "../../environment.yml"
    params:
        run=identity,
    message:
        "Taking {wildcards.run} at epoch {wildcards.epoch} for {wildcards.study}"
    shell:
        "python -m barlow_atlas take-milestone --study {wildcards.study}"
        " --run {wildcards.run} --epoch {wildcards.epoch} > {log} 2>&1"


rule import_weights:
    # Foreign weights instead of training; what is imported is probed like all others.
    input:
        file=foreign_file,
        data=data_manifest,
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
        run=identity,
        code=training_code,
    message:
        "Importing {wildcards.run} of {wildcards.study} at epoch {wildcards.epoch}"
    shell:
        "python -m barlow_atlas import-weights --study {wildcards.study}"
        " --run {wildcards.run} --epoch {wildcards.epoch} > {log} 2>&1"
