"""Pictures made ready for trainers: upright, sRGB, without metadata, of the right size, and no one twice."""

from functools import partial
from pathlib import Path
from typing import ClassVar

from lightmill.engine.items import Source
from lightmill.engine.journal import Journal
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job
from lightmill.engine.stages import Each, Save, To
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.lit_models import open_scorer
from lightmill.recipes.preparing import IMAGE, Preparing, columns_of
from lightmill.recipes.tables import write_table


class Prepare(Preparing):
    """Make pictures ready for trainers: upright, sRGB, without metadata, fitted to a size or to buckets.

    INPUT is a ZIP, a folder of pictures, one picture, a table with a column image_path, or a video. Every picture
    becomes OUT/images/NAME; the manifest says where each of its pixels came from.
    """

    name: ClassVar[str] = "prepare"
    table_suffix: ClassVar[str] = "prepared"

    def job(self, input: Path, out: Path) -> Job:
        source = self.source(input, out)
        choice = self.choice()
        device = chosen_device(self.device) if self.score_model else "cpu"
        scorer = open_scorer(self.score_model, self.score_prompt)
        if scorer:
            scorer.check(device)
        return Job(
            recipe=self.name,
            version=self.version(),
            config=self.config(input),
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(self.pipeline, [choice.stage(out)] if choice else [], video=source.streams),
            device=device,
            export=lambda outputs, journal: self._export(outputs, journal, source, input),
            columns=self.manifest_columns,
        )

    def pipeline(self, chosen: list[Each], *, video: bool) -> Pipeline:
        """Read, plan, decode, fit, encode, save."""
        return Pipeline(
            *self.picture_stages(chosen, video=video, wants_pixels=False),
            Save(file=To(self.image_path, IMAGE)),
            given=("frame",) if video else (),
        )

    def _export(self, outputs: Outputs, journal: Journal, source: Source, input: Path) -> list[str]:
        return write_table(
            outputs,
            journal,
            source,
            input=input,
            suffix=self.table_suffix,
            absolute=self.absolute_paths,
            label=IMAGE,
            extra=columns_of,
        )
