"""Probe files -> records -> tidy tables -> statistics -> a study's report -> the ledger of all."""


rule record:
    # All that is kept in git of a run. What is recorded and no longer lies here stays recorded.
    input:
        probes=probe_files,
        training=training_files,
    output:
        update("results/{study}/runs/{run}.jsonl"),
    log:
        "logs/{study}/record/{run}.log",
    conda:
        "../../environment.yml"
    params:
        code=code_of("record"),
    message:
        "Recording {wildcards.run} of {wildcards.study}"
    shell:
        "python -m barlow_atlas record --study {wildcards.study} --run {wildcards.run}"
        " > {log} 2>&1"


rule collect:
    input:
        records=records,
    output:
        [f"results/{{study}}/{name}" for name in paths.COLLECTED],
    log:
        "logs/{study}/collect.log",
    conda:
        "../../environment.yml"
    params:
        code=labelling_code("collect"),
        adopted=lambda wildcards: [str(each) for each in adoptions(wildcards.study)],
    message:
        "Gathering the records of {wildcards.study}"
    shell:
        "python -m barlow_atlas collect --study {wildcards.study} > {log} 2>&1"


rule analyse:
    input:
        table="results/{study}/probes.csv",
        # Intervals need each image's answers, which only the records have.
        records=records,
    output:
        [f"results/{{study}}/{name}" for name in paths.ANALYSED],
    log:
        "logs/{study}/analyse.log",
    conda:
        "../../environment.yml"
    params:
        code=labelling_code("analyse"),
        claims=tested_claims,
    message:
        "Computing curves, effects and claims of {wildcards.study}"
    shell:
        "python -m barlow_atlas analyse --study {wildcards.study} > {log} 2>&1"


rule report_study:
    input:
        [f"results/{{study}}/{name}" for name in (*paths.COLLECTED, *paths.ANALYSED)],
        records=records,
        published=paths.PUBLISHED,
    output:
        [
            report(
                f"reports/{{study}}/{name}.png",
                caption="../report/figure.rst",
                category="{study}",
                labels={"what": what, "format": "PNG"},
            )
            for name, what in paths.FIGURES.items()
        ],
        report(
            "reports/{study}/milestones.csv",
            caption="../report/milestones.rst",
            category="{study}",
            labels={"what": "method x milestone", "format": "CSV"},
        ),
        [
            f"reports/{{study}}/{name}"
            for name in paths.REPORTED
            if not name.endswith(".png") and name != "milestones.csv"
        ],
    log:
        "logs/{study}/report.log",
    conda:
        "../../environment.yml"
    params:
        code=code_of("report"),
        title=lambda wildcards: STUDIES[wildcards.study].title,
    message:
        "Drawing the report of {wildcards.study}"
    shell:
        "python -m barlow_atlas report --study {wildcards.study} > {log} 2>&1"


rule ledger:
    # Over all studies that have results here, those of this call among them.
    input:
        results=results_of_studies,
        published=paths.PUBLISHED,
        tables=paths.PAPER_TABLES,
        claims=paths.CLAIMS,
    output:
        # Not removed before: another study's ledger may just have been written.
        update(ledger_files()),
    log:
        "logs/ledger.log",
    conda:
        "../../environment.yml"
    params:
        code=code_of("ledger"),
        # What differs in the set-up follows from all of them.
        studies=what_studies_are(),
    message:
        "Writing the ledger of claims and the tables over all studies"
    shell:
        "python -m barlow_atlas ledger > {log} 2>&1"
