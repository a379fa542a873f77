"""Official files -> arrays. Runs where the network is: on a cluster, the login node."""


rule prepare_data:
    output:
        # Not removed before: another study may just have had it made, and read it.
        manifest=update("results/data/{dataset}/manifest.json"),
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "logs/data/{dataset}.tsv"
    conda:
        "../../environment.yml"
    params:
        code=code_of("prepare_data"),
        # Which study asks is no part of the result; Snakemake compares no parameter that is
        # derived from `input`.
        study=lambda wildcards, input: DATA_SETS[wildcards.dataset][1],
        # The facts that decide the arrays: files and checksums, split seed, shares, stored size.
        facts=lambda wildcards: DATA_SETS[wildcards.dataset][0].model_dump_json(),
    message:
        "Preparing the data set {wildcards.dataset}"
    shell:
        "python -m barlow_atlas prepare-data --study {params.study}"
        " --data {wildcards.dataset} > {log} 2>&1"
