"""`biasscope mitigate`."""

from pathlib import Path
from typing import Annotated

from biasscope import options

PANEL = "Conclude"
EXAMPLES = (
    "biasscope mitigate --from 34a1f100",
    "biasscope mitigate --from 34a1f100 --kind mean,erase --sizes 1,2,5 --layers 10,20 --doses 0.5,1",
    "biasscope mitigate --from 34a1f100 --export mean-2@1 --as weights,ia3 --to edited/",
)


Kind = Annotated[
    str | None,
    options.option(
        "--kind", "Some of mean, zero, project, erase, steer (default: mean,erase)", metavar="NAME,…"
    ),
]
Sizes = Annotated[
    str, options.option("--sizes", "How many heads are edited (mean, zero, project)", metavar="1,2,5")
]
Doses = Annotated[
    str | None,
    options.option("--doses", "How much of each edit (default: 0.25,0.5,0.75,1)", metavar="0.5,1"),
]
Layers = Annotated[
    str | None,
    options.option(
        "--layers", "Layers whose input is edited (erase, steer; default: three)", metavar="10,20"
    ),
]
At = Annotated[str, options.option("--at", "Where they are fitted: term or last token")]
Transfer = Annotated[
    str | None,
    options.option("--transfer", "Judge on these data too; none: on no others", panel=options.DATA),
]
Text = Annotated[
    Path | None,
    options.option(
        "--text",
        "Prose for the loss per token (default: CPython's own)",
        panel=options.DATA,
        exists=True,
        dir_okay=False,
    ),
]
Tokens = Annotated[
    int | None, options.option("--tokens", "Tokens of it (default: 2000)", panel=options.DATA, min=100)
]
Random = Annotated[
    int, options.option("--random", "Random edits per control; 0: none, and no verdict", min=0)
]
AllDoses = Annotated[bool, options.option("--all-doses", "Judge every dose in full, not the largest alone")]
Audit = Annotated[
    int,
    options.option(
        "--audit", "Heads of each edited model measured anew, its strongest; 0: none", metavar="N", min=0
    ),
]
Export = Annotated[
    str | None,
    options.option("--export", "Write this edit of the run as files", metavar="NAME", panel=options.OUTPUT),
]
Forms = Annotated[
    str,
    options.option(
        "--as", "Some of recipe, weights, ia3, vector, gguf", metavar="FORM,…", panel=options.OUTPUT
    ),
]
To = Annotated[
    Path | None, options.option("--to", "The empty folder for it", metavar="FOLDER", panel=options.OUTPUT)
]


def mitigate(
    o: options.Unedited,
    source_run: Annotated[
        str, options.option("--from", "Run of ablate: its model, data, seed and heads", metavar="RUN")
    ],
    kind: Kind = None,
    sizes: Sizes = "1,2,5,10",
    doses: Doses = None,
    layers: Layers = None,
    at: At = "term",
    transfer: Transfer = None,
    text: Text = None,
    tokens: Tokens = None,
    random: Random = 20,
    all_doses: AllDoses = False,
    audit: Audit = 5,
    export: Export = None,
    form: Forms = "recipe",
    to: To = None,
    plot: options.Plot = False,
) -> None:
    """Edit the model: what is left of its bias, what that costs, what random edits do, the edit as a file."""
    from biasscope.console import Screen
    from biasscope.engine.experiments.mitigate import leave, mitigate, wanted
    from biasscope.report import formats
    from biasscope.report.edits import card

    voice = Screen(o.quiet, o.verbose)
    asked = wanted.Wanted(
        kind=kind,
        sizes=sizes,
        doses=doses,
        layers=layers,
        at=at,
        transfer=transfer,
        text=text,
        tokens=tokens,
        random=random,
        all_doses=all_doses,
        audit=audit,
    )
    target = leave.Target.of(export, form, to)
    result = mitigate(o, source_run, wanted=asked, voice=voice)
    if target is not None:
        left = leave.leave(o, result, target, voice)
        card.write(left, result)
        voice.note(f"written to {target.folder}: {', '.join(left.files)}, {card.FILE}")
    formats.result(result, o, plot=plot)
