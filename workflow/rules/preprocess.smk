# Native scan -> bias-corrected, stripped, registered -> analysis grid, normalised, tissue maps.
# Two jobs per subject: the slow one knows nothing of the annotated cohort, so neither a new case nor
# an edit of the normalisation repeats it.

# HD-BET and SynthStrip are the only ways to find a brain that load torch and use a GPU. The memory is
# for SynthStrip on its largest grid, 320 voxels along each edge.
NETWORK = config["healthy"]["brain"] in ("hd-bet", "synthstrip")


rule preprocess_healthy:
    input:
        checked=ancient(rules.ingest.output.subjects),
        scans=lambda wildcards: scans(wildcards.subject),
    output:
        [
            f"{R}/sub-{{subject}}/anat/sub-{{subject}}_desc-N4_{m}.nii.gz"
            for m in MODALITIES
        ],
        [
            f"{R}/sub-{{subject}}/anat/sub-{{subject}}_from-{m}_to-MNI152NLin2009aSym_mode-image_xfm.txt"
            for m in MODALITIES
        ],
        mask=f"{R}/sub-{{subject}}/anat/sub-{{subject}}_desc-brain_mask.nii.gz",
        evidence=f"{R}/sub-{{subject}}/anat/sub-{{subject}}_desc-preproc.json",
    log:
        f"{R}/logs/preprocess/{{subject}}.log",
    benchmark:
        f"{R}/benchmarks/preprocess/{{subject}}.tsv"
    conda:
        ENV
    threads: config["compute"]["threads"] if NETWORK else 1
    resources:
        gpu=int(NETWORK),
        mem_mb=growing(16000 if NETWORK else 3000),
        runtime=growing(10),
    params:
        code=code("preprocess"),
        section=section("preprocess"),
        cohort="healthy",
        space="native",
        brain=config["healthy"]["brain"],
        seg="",
        weights=(
            f"--weights {shlex.quote(config['healthy']['brain_weights'])}"
            if config["healthy"]["brain_weights"]
            else ""
        ),
        images=lambda wildcards, input: [
            f"--image {m}={path}" for m, path in zip(MODALITIES, input.scans)
        ],
        out=lambda wildcards, output: str(Path(output.mask).parent),
    shell:
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS={threads} python -m tumorfab.preprocess"
        " --subject {wildcards.subject} --cohort {params.cohort} --space {params.space}"
        " --brain {params.brain} {params.weights} {params.images} {params.seg}"
        " --threads {threads} --params {params.section:q} --out {params.out} > {log} 2>&1"


# Cases that share a space are not taken to the template one by one: `template` does it for all.
use rule preprocess_healthy as preprocess_annotated with:
    input:
        checked=ancient(rules.ingest.output.subjects),
        scans=lambda wildcards: scans(wildcards.subject),
        seg=lambda wildcards: ([] if SHARED else subjects[wildcards.subject]["seg"]),
    output:
        [
            f"{R}/sub-{{subject}}/anat/sub-{{subject}}_desc-N4_{m}.nii.gz"
            for m in MODALITIES
        ],
        []
        if SHARED
        else rules.preprocess_healthy.output[len(MODALITIES) : 2 * len(MODALITIES)],
        mask=f"{R}/sub-{{subject}}/anat/sub-{{subject}}_desc-brain_mask.nii.gz",
        evidence=f"{R}/sub-{{subject}}/anat/sub-{{subject}}_desc-preproc.json",
    wildcard_constraints:
        subject="|".join(ANNOTATED),
    threads: 1
    resources:
        gpu=0,
        mem_mb=growing(3000),
        runtime=growing(10),
    params:
        cohort="annotated",
        space=config["annotated"]["space"],
        brain=config["annotated"]["brain"],
        weights="",
        seg=lambda wildcards, input: (
            f"--seg {shlex.quote(input.seg)}" if input.seg else ""
        ),


# Training cases only: not even the position of a test brain may reach the hosts. With several folds,
# where every case is trained on in one and tested in another, the mean position of all is in the
# twelve numbers of the one alignment that the folds share; no annotation is.
rule template:
    input:
        images=[
            f"{R}/sub-{s}/anat/sub-{s}_desc-N4_{MODALITIES[0]}.nii.gz"
            for s in TRAIN
            if SHARED
        ],
        masks=[
            f"{R}/sub-{s}/anat/sub-{s}_desc-brain_mask.nii.gz" for s in TRAIN if SHARED
        ],
    output:
        [f"{R}/template/template_space-{S}_label-{t}_probseg.nii.gz" for t in TISSUES],
        f"{R}/template/from-MNI152NLin2009aSym_to-{S}_mode-image_xfm.txt",
        f"{R}/template/template_space-{S}_T1w.nii.gz",
        f"{R}/template/template_space-{S}_desc-brain_mask.nii.gz",
        f"{R}/template/template_space-{S}_label-ventricles_mask.nii.gz",
        evidence=f"{R}/template/template.json",
    log:
        f"{R}/logs/template.log",
    benchmark:
        f"{R}/benchmarks/template.tsv"
    conda:
        ENV
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("template"),
        spacing=config["space"]["spacing"],
        label=S,
        modality=MODALITIES[0],
        images=lambda wildcards, input: [
            f"--image {s}={path}" for s, path in zip(TRAIN, input.images)
        ],
        out=lambda wildcards, output: str(Path(output.evidence).parent),
    shell:
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS={threads} python -m tumorfab.template {params.images}"
        " --mask {input.masks} --spacing {params.spacing} --label {params.label}"
        " --modality {params.modality} --out {params.out} > {log} 2>&1"


# Aligning the tissue maps takes not much longer than loading the program: several subjects in one
# process.
for standardise_rule, part in batches(
    "standardise", HEALTHY, config["compute"]["batches"]
):

    rule:
        name:
            standardise_rule
        input:
            native=[path for s in part for path in native(s)],
            template=rules.template.output,
        output:
            [path for s in part for path in [about(s), *images(s)]],
        log:
            f"{R}/logs/standardise/{standardise_rule}.log",
        benchmark:
            f"{R}/benchmarks/standardise/{standardise_rule}.tsv"
        conda:
            ENV
        resources:
            mem_mb=growing(3000),
            runtime=growing(5 + len(part)),
        params:
            code=[code("standardise"), code("batch")],
            label=S,
            modalities=MODALITIES,
            each=listed(
                f"standardise/{standardise_rule}",
                [
                    f"--subject {s} --anat {shlex.quote(f'{R}/sub-{s}/anat')}"
                    for s in part
                ],
            ),
            template=lambda wildcards, input: str(Path(input.template[0]).parent),
            section=section("standardise"),
        shell:
            "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS={threads} python -m tumorfab.batch standardise"
            " --each {params.each} --cohort healthy --modality {params.modalities}"
            " --template {params.template} --label {params.label} --params {params.section:q}"
            " > {log} 2>&1"


rule standardise_annotated:
    input:
        rules.preprocess_annotated.output,
        template=rules.template.output,
        seg=lambda wildcards: subjects[wildcards.subject]["seg"],
    output:
        images("{subject}"),
        standardised("{subject}", "dseg"),
        evidence=about("{subject}"),
    log:
        f"{R}/logs/standardise/{{subject}}.log",
    benchmark:
        f"{R}/benchmarks/standardise/{{subject}}.tsv"
    wildcard_constraints:
        subject="|".join(ANNOTATED),
    conda:
        ENV
    resources:
        mem_mb=growing(3000),
        runtime=growing(5),
    params:
        code=code("standardise"),
        label=S,
        modalities=MODALITIES,
        anat=lambda wildcards, output: str(Path(output.evidence).parent),
        template=lambda wildcards, input: str(Path(input.template[0]).parent),
        section=section("standardise"),
    shell:
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS={threads} python -m tumorfab.standardise"
        " --subject {wildcards.subject} --cohort annotated --modality {params.modalities}"
        " --anat {params.anat} --template {params.template} --label {params.label}"
        " --params {params.section:q} --seg {input.seg:q} > {log} 2>&1"


# Both rules can make the files of an annotated case; only the narrower one should.
ruleorder: preprocess_annotated > preprocess_healthy
