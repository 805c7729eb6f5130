"""Where the real StereoSet and WinoGender files and the GPT-2 tokenizer lie, if they are there."""

import os
from pathlib import Path

DATA = Path(os.environ.get("BIASSCOPE_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
