"""Probe files -> tidy table -> curves with intervals -> the report's tables and figures."""


rule collect:
    input:
        probes=probe_files,
        src=code(sources.COLLECT),
    output:
        accuracies="results/{study}/probes.csv",
        signals="results/{study}/signals.csv",
    log:
        "logs/{study}/collect.log",
    conda:
        "../../environment.yml"
    message:
        "Gathering the probes of {wildcards.study}"
    shell:
        "python -m barlow_atlas collect --study {wildcards.study} > {log} 2>&1"


rule analyse:
    input:
        table="results/{study}/probes.csv",
        src=code(sources.ANALYSE),
    output:
        curves="results/{study}/curves.csv",
        accuracy="results/{study}/accuracy.csv",
        metrics="results/{study}/metrics.json",
    log:
        "logs/{study}/analyse.log",
    conda:
        "../../environment.yml"
    message:
        "Computing curves and intervals of {wildcards.study}"
    shell:
        "python -m barlow_atlas analyse --study {wildcards.study} > {log} 2>&1"


rule report_study:
    input:
        table="results/{study}/probes.csv",
        curves="results/{study}/curves.csv",
        src=code(sources.REPORT),
    output:
        png=report(
            "reports/{study}/curves.png",
            caption="../report/curves.rst",
            category="{study}",
            labels={"what": "accuracy along pre-training", "format": "PNG"},
        ),
        pdf="reports/{study}/curves.pdf",
        csv=report(
            "reports/{study}/milestones.csv",
            caption="../report/milestones.rst",
            category="{study}",
            labels={"what": "method x milestone", "format": "CSV"},
        ),
        markdown="reports/{study}/milestones.md",
        latex="reports/{study}/milestones.tex",
    log:
        "logs/{study}/report.log",
    conda:
        "../../environment.yml"
    params:
        title=lambda wildcards: STUDIES[wildcards.study].title,
    message:
        "Drawing the report of {wildcards.study}"
    shell:
        "python -m barlow_atlas report --study {wildcards.study} > {log} 2>&1"
