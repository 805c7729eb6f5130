"""StereoSet (Nadeem, Bethke, Reddy 2021), the public development set: sentences to fill in (`stereoset`), and
next sentences (`intersentence`).
"""

import json
from collections import Counter
from pathlib import Path

import polars as pl

from biasscope.engine.data import reading, stereoset_records, terms
from biasscope.engine.data.reading import Gathered, Origin, RemoteFile
from biasscope.engine.data.stereoset_records import LABELS, SPLITS, Record, check, fillers
from biasscope.engine.errors import DataError
from biasscope.engine.store import digests
from biasscope.engine.types import Dataset, Example

TYPES = ("gender", "race", "profession", "religion")
FILL_IN = ("stereoset", *(f"stereoset_{kind}" for kind in TYPES))
NEXT = ("intersentence", *(f"intersentence_{kind}" for kind in TYPES))
NAMES = FILL_IN + NEXT

# These two sha256 sums were read from the hub's public pages, not from a download. What decides is the
# content digest below, computed once from the lists of the official dev.json.
_FILES = (
    ("intrasentence", "617686ef10f79e8fef15f0ff0ca2792671aaa64e2a14e04122e23b1416856efa"),
    ("intersentence", "2ddf1a94ef6612c411f1d43a811d3526c61a11cf9af913ea211943beae6cedcb"),
)
ORIGIN = Origin(
    name="stereoset",
    credit="Nadeem, Bethke, Reddy (2021), StereoSet: Measuring stereotypical bias in pretrained "
    "language models",
    caveat="StereoSet's pairs have been criticised as a measure of stereotyping (Blodgett et al. 2021; "
    "Pikuliak et al. 2023), and its fillers differ in frequency, so that 0 is not “unbiased”.",
    licence="CC BY-SA 4.0",
    host="hub",
    url="https://huggingface.co/datasets/McGill-NLP/stereoset",
    repo="McGill-NLP/stereoset",
    revision="0d66b726809ae46e0cb4aba758f5ee21d9783032",
    files=tuple(
        RemoteFile(f"{split}/validation-00000-of-00001.parquet", f"{split}.json", sha)
        for split, sha in _FILES
    ),
    digests={
        "intrasentence": "b55c03242c5c8ee4b51affebb48ee7e00a9530eb32c88fff4b035e2f9cca9082",
        "intersentence": "c87a0ddc27fb45b49833e3365e50e6e025d364736211a1377be5ccf8787c38a5",
    },
)

TWO_BLANKS = "two BLANKs"
TRIPLE_IDS = pl.Schema(
    dict.fromkeys(
        ("split", "example_id", "group", "bias_type", "stereo_id", "anti_id", "unrelated_id"), pl.String
    )
)


def present(data_dir: Path) -> bool:
    """Whether the fill-in sentences are downloaded."""
    return (data_dir / ORIGIN.name / "intrasentence.json").is_file()


def read(name: str, data_dir: Path, *, skip_invalid: bool = False) -> Dataset:
    """The fill-in sentences or next sentences of all four bias types, or of the one in the name."""
    split, build = ("intrasentence", example) if name in FILL_IN else ("intersentence", following)
    records, dropped, notes = _stored(data_dir, split, skip_invalid=skip_invalid)
    whole = name.partition("_")[0]
    wanted = [r for r in records if name in (whole, f"{whole}_{r.bias_type}")]
    return Dataset(
        name=name,
        examples=tuple(build(record, name) for record in wanted),
        digest=_digest(wanted),
        # Refused records may lack even their bias type, so they are counted under every name.
        found=len(wanted) + dropped.total(),
        dropped=dropped,
        notes=notes,
        record=ORIGIN.record(),
        noun="term",
        bias=terms.stereotypes(r.bias_type for r in wanted),
        rule="stereoset",
    )


def _digest(records: list[Record]) -> str:
    return digests.digest(sorted(record.content() for record in records))


def _stored(
    data_dir: Path, split: str, *, skip_invalid: bool = False
) -> tuple[list[Record], Counter[str], tuple[str, ...]]:
    (path,) = reading.stored(ORIGIN, data_dir, f"{split}.json").values()
    return _checked(reading.read_list(path), path, split, skip_invalid=skip_invalid)


def _checked(
    raw: list[object], path: Path, split: str, *, skip_invalid: bool
) -> tuple[list[Record], Counter[str], tuple[str, ...]]:
    records, problems = check(raw, split, path)
    dropped = reading.refuse(problems, path, len(raw), skip=skip_invalid)
    return records, dropped, reading.confirm(_digest(records), ORIGIN, split, path, dropped=dropped.total())


def example(record: Record, dataset: str) -> Example:
    """The example of a fill-in record: the context in its own case, the fillers in the sentences' case."""
    stereo, anti, unrelated = (record.labelled(label).text for label in LABELS)
    head, tail = record.context.split("BLANK", 1)
    # The leading space belongs to the filler's first token. Only one: a second space stays in the prompt.
    space = " " if head.endswith(" ") else ""
    flaw = TWO_BLANKS if "BLANK" in tail else None
    words = ["" if flaw else space + fillers(record.context, text)[0] for text in (stereo, anti, unrelated)]
    return Example(
        id=record.id,
        dataset=dataset,
        bias_type=record.bias_type,
        group=record.target,
        prompt="" if flaw else head.removesuffix(" "),
        stereo=words[0],
        anti=words[1],
        unrelated=words[2],
        suffix="" if flaw else tail,
        sentences=(stereo, anti, unrelated),
        flaw=flaw,
    )


def following(record: Record, dataset: str) -> Example:
    """The example of a next-sentence record: three sentences after its context. They are compared per token,
    for their sums would compare lengths.
    """
    stereo, anti, unrelated = (f" {record.labelled(label).text}" for label in LABELS)
    return Example(
        id=record.id,
        dataset=dataset,
        bias_type=record.bias_type,
        group=record.target,
        prompt=record.context,
        stereo=stereo,
        anti=anti,
        unrelated=unrelated,
        per_token=True,
    )


def triples(data_dir: Path) -> pl.DataFrame:
    """The sentence ids of every record of the splits that are downloaded (schema TRIPLE_IDS)."""
    rows = []
    for split in SPLITS:
        if split == "intrasentence" or (data_dir / ORIGIN.name / f"{split}.json").is_file():
            records, _, _ = _stored(data_dir, split)
            rows += [
                (split, r.id, r.target, r.bias_type, *(r.labelled(label).id for label in LABELS))
                for r in records
            ]
    return pl.DataFrame(rows, schema=TRIPLE_IDS, orient="row")


def gather(folder: Path) -> Gathered:
    """The files to store, from a folder with any container of StereoSet; the next sentences may be absent.

    Raises DataError where the content is not the published one.
    """
    files = {}
    for split in SPLITS:
        path = stereoset_records.find(folder, split)
        if path is None and split == "intrasentence":
            places = ", ".join(place.format(split=split) for place in stereoset_records.PLACES)
            raise DataError(f"{folder} holds no StereoSet: none of {places} is there")
        if path is not None:
            records, _, _ = _checked(stereoset_records.read(path, split), path, split, skip_invalid=False)
            text = json.dumps([r.as_json() for r in records], indent=1, ensure_ascii=False)
            files[f"{split}.json"] = f"{text}\n".encode()
    return Gathered(files, {split: ORIGIN.digests[split] for split in SPLITS if f"{split}.json" in files})
