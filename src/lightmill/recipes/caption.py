"""From a ZIP of pictures to a data set that trainers read: prepared pictures, captions, and exports of both."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar

from lightmill.engine.items import MADE, Json, Source
from lightmill.engine.journal import Journal, Row
from lightmill.engine.lock import RunLock
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import STATE_FOLDER, Job
from lightmill.engine.stages import Batch, Each, Save, Stage, To
from lightmill.errors import InputError
from lightmill.models.template import check_template
from lightmill.recipes.caption_exports import edited_lines, layers_of, write_all
from lightmill.recipes.caption_models import for_another_try, is_server, is_tagger
from lightmill.recipes.caption_options import Captioning, Voices
from lightmill.recipes.captioning import (
    CAPTION,
    LAYERS,
    TAGS,
    AskFor,
    Describe,
    FromTemplate,
    TagPictures,
    TakeCaptions,
    Words,
    date_taken,
    no_date,
    no_tags,
    no_texts,
)
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.existing import ReadExisting, found_lines, left_out, note_kinds
from lightmill.recipes.lit_models import open_scorer
from lightmill.recipes.preparing import IMAGE, columns_of
from lightmill.recipes.tables import write_table
from lightmill.sources import TableSource


class Caption(Captioning):
    """Caption pictures for trainers: prepare them, say what each shows, and write what every trainer reads.

    INPUT is a ZIP, a folder of pictures, one picture, a table with a column image_path, or a video. Captions that lie
    beside the pictures are taken along. OUT/captions.jsonl holds all that is said of every picture.
    """

    name: ClassVar[str] = "caption"
    table_suffix: ClassVar[str] = "captions"

    # --- the run -----------------------------------------------------------------------------------------------------

    def job(self, input: Path, out: Path) -> Job:
        return self.job_with(self.voices(), input, out)

    def job_with(self, voices: Voices, input: Path, out: Path) -> Job:
        """The work with models of one's own. Raises as `job`."""
        source = self.source(input, out)
        device = self._checked(voices, source)
        choice = self.choice()
        return Job(
            recipe=self.name,
            version=self.version(),
            config=self.config(input) | {"models": voices.described(), "device": device},
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(self.pipeline, voices, [choice.stage(out)] if choice else [], video=source.streams),
            device=device,
            export=lambda outputs, journal: self._export(outputs, journal, source, input),
            columns=self.manifest_columns,
        )

    def check(self, source: Source) -> None:
        self._checked(self.voices(), source)

    def _checked(self, voices: Voices, source: Source) -> str:
        """The device for models; "cpu" where there are none. Raises as `check`."""
        columns = source.table.columns if isinstance(source, TableSource) else ()
        check_template(self.template if voices.captioner is None else self.asked, columns=columns)
        scorer = open_scorer(self.score_model, self.score_prompt)
        models = [model for model in (*voices, scorer) if model]
        device = chosen_device(self.device) if models else "cpu"
        for model in models:
            model.check(device)
        return device

    def pipeline(self, voices: Voices, chosen: list[Each], *, video: bool) -> Pipeline:
        """Prepare; read what is there; tag; caption; save."""
        wants_pixels = any(voices)
        tag = (
            Batch(TagPictures(voices.tagger), makes="tagged", name="tag", size=self.batch)
            if voices.tagger
            else Each(no_tags, makes="tagged", name="no tags")
        )
        return Pipeline(
            *self.picture_stages(chosen, video=video, wants_pixels=wants_pixels),
            Each(no_date if video else date_taken, makes="taken", name="date"),
            Each(no_texts if self.existing == "ignore" else ReadExisting(), makes="existing", name="existing"),
            tag,
            Each(Words(trigger=self.trigger), makes="words", name="words"),
            *self._caption_stages(voices),
            Save(file=To(self.image_path, IMAGE)),
            given=("frame",) if video else (),
        )

    def plan_pipeline(self, chosen: list[Each], *, video: bool) -> Pipeline:
        """The same, with the captions that are there."""
        stages = self.preparer(wants_pixels=False).plans(video=video)
        return Pipeline(
            *chosen,
            *stages,
            Each(ReadExisting(), makes="existing", name="existing"),
            Each(note_kinds, name="kinds"),
            given=("frame",) if video else (),
        )

    def dry_remarks(self, out: Path, journal: Journal) -> Iterable[str]:
        yield from found_lines(journal.rows(*MADE), existing=self.existing, uses=self.uses_existing)
        if self.existing != "ignore":
            yield from (f"  {warning}" for warning in left_out(journal.rows()))
        yield from edited_lines(out, self.captions)

    def _caption_stages(self, voices: Voices) -> list[Stage]:
        captioner, tagger = voices
        tags_by: dict[str, Json] = {"model": tagger.name, "version": tagger.version} if tagger else {}
        if captioner is None:
            template = FromTemplate(
                template=self.template, use_existing=self.uses_existing, wording=self.wording, tagger=tags_by
            )
            return [Each(template, makes=LAYERS, name=CAPTION)]
        ask = AskFor(prompt=self.asked, count=self.captions_per_image, use_existing=self.uses_existing)
        again = partial(for_another_try, wishes=self.wishes)
        describe = Describe(captioner, again, retries=self.retries, script=self.expected_script)
        take = TakeCaptions(
            layer=TAGS if is_tagger(captioner.name) else CAPTION,
            model=captioner.name,
            version=captioner.version,
            wording=self.wording,
            tagger=tags_by,
        )
        size = max(self.batch, 4 * self.concurrency) if is_server(captioner.name) else self.batch
        return [
            Each(ask, makes="asks", name="ask", seed=self.seed),
            Batch(describe, makes="told", name="describe", size=size),
            Each(take, makes=LAYERS, name=CAPTION),
        ]

    # --- at the end --------------------------------------------------------------------------------------------------

    def _export(self, outputs: Outputs, journal: Journal, source: Source, input: Path) -> list[str]:
        journal.set_warnings(left_out(journal.rows()))
        made = write_all(outputs, journal, self.export_rule)
        return made + write_table(
            outputs,
            journal,
            source,
            input=input,
            suffix=self.table_suffix,
            absolute=self.absolute_paths,
            label=IMAGE,
            extra=_columns,
        )


def export_again(out: Path) -> None:
    """Make the exports of the run in OUT once more, of its captions as they are now. Raises InputError, OutputError."""
    with RunLock(out / STATE_FOLDER), Journal.read(out) as journal:
        commands = [one.command for one in journal.inputs() if one.command.get("recipe") == Caption.name]
        if not commands:
            raise InputError(f"{out} holds no run of {Caption.name}")
        Caption.from_values(commands[-1]["options"]).export_rule.make(Outputs(out))


def _columns(row: Row) -> dict[str, str]:
    """What a table gets of every picture: the run's own texts, its size in OUT, and scores."""
    texts: dict[str, str] = {}
    for layer in layers_of(row):
        if layer.name in (CAPTION, TAGS):
            texts.setdefault(f"output_{layer.name}", layer.text)
    return texts | columns_of(row)
