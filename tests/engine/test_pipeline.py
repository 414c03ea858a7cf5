"""Pipelines are checked when they are built, before any picture is opened."""

import pytest

from lightmill.engine.pipeline import Pipeline
from lightmill.engine.stages import Batch, Each, Fan, PipelineError, Save, To, item_seed


def read(ref):
    return ref


def brighten(image, *, by):
    return image + by


def split(image):
    return image, image


class Double:
    def load(self, device): ...

    def unload(self): ...

    def __call__(self, image):
        return [2 * i for i in image]


def test_a_field_that_nobody_makes_is_an_error_with_the_nearest_spelling():
    with pytest.raises(PipelineError, match=r"stage 'brighten' needs a field 'image' .* did you mean 'imge'\?"):
        Pipeline(Each(read, makes="imge"), Each(brighten, makes="bright", by=3))


def test_an_unknown_field_without_a_near_one_lists_what_there_is():
    with pytest.raises(PipelineError, match=r"needs a field 'image' .* there are 'xyz'"):
        Pipeline(Each(read, makes="xyz"), Each(brighten, makes="bright", by=3))


def test_a_bound_name_that_the_function_does_not_take_is_an_error():
    with pytest.raises(PipelineError, match="stage 'brighten': its function takes no bye"):
        Each(brighten, makes="bright", bye=3)


def test_a_field_is_made_once():
    with pytest.raises(PipelineError, match="stage 'again' makes 'image', which is there already"):
        Pipeline(Each(read, makes="image"), Each(read, makes="image", name="again"))


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(PipelineError, match="two stages are called 'read'"):
        Pipeline(Each(read, makes="image"), Each(read, makes="other"))


def test_what_a_save_needs_is_checked_too():
    with pytest.raises(PipelineError, match=r"stage 'save' needs a field 'fille' .* did you mean 'file'\?"):
        Pipeline(Each(read, makes="file"), Save(fille="{name}.png"))


def test_functions_with_star_arguments_are_refused():
    with pytest.raises(PipelineError, match="plain named parameters"):
        Each(lambda *args: args, makes="x", name="star")


def test_a_batch_holds_at_least_one_item():
    with pytest.raises(PipelineError, match="at least one item, got 0"):
        Batch(Double(), makes="twice", size=0)


def test_inside_a_fan_the_part_and_what_its_stages_make_are_known():
    fan = Fan(
        part="camera",
        over={"a": 1},
        stages=(
            Each(lambda image, camera: image, makes="view", name="cut"),
            Each(lambda view: view, makes="file", name="enc"),
        ),
        gathers={"file": "files"},
    )
    pipeline = Pipeline(Each(read, makes="image"), fan, Save(files="{part}/{name}.png"))
    assert fan.needs == ("image",)
    assert [segment.on_device for segment in pipeline.segments] == [False]


def test_a_fan_that_gathers_what_it_does_not_make_is_refused():
    fan = Fan(
        part="camera", over={"a": 1}, stages=(Each(lambda camera: 1, makes="view", name="cut"),), gathers={"vew": "x"}
    )
    with pytest.raises(PipelineError, match=r"'vew' .* did you mean 'view'\?"):
        Pipeline(fan)


def test_segments_are_maximal_runs_of_one_kind_and_drop_fields_after_their_last_use():
    pipeline = Pipeline(
        Each(read, makes="image"),
        Each(split, makes=("left", "right")),
        Batch(Double(), makes="twice"),
        Each(lambda twice, left: twice, makes="file", name="join"),
        Save(file=To("{name}.bin")),
    )
    assert [(segment.on_device, len(segment.stages)) for segment in pipeline.segments] == [
        (False, 2),
        (True, 1),
        (False, 2),
    ]
    assert pipeline.segments[0].drops == ((), ("right",))  # nobody needs `right`: it goes at once
    assert pipeline.segments[1].drops == (("image",),)
    assert set(pipeline.segments[2].drops[0]) == {"left", "twice"}
    assert pipeline.segments[2].drops[1] == ("file",)


def test_what_only_weighs_a_stage_is_kept_until_then_and_checked():
    weigh = Each(lambda image: image, makes="file", name="decode", weight=lambda header: header)
    pipeline = Pipeline(Each(lambda ref: (ref, ref), makes=("image", "header"), name="read"), weigh)
    assert "header" in pipeline.segments[0].drops[1]
    with pytest.raises(PipelineError, match="stage 'decode' needs a field 'header'"):
        Pipeline(Each(read, makes="image"), weigh)


def test_item_seeds_depend_on_seed_key_and_stage_and_on_nothing_else():
    assert item_seed(1, "a.jpg", "degrade") == item_seed(1, "a.jpg", "degrade")
    others = {item_seed(2, "a.jpg", "degrade"), item_seed(1, "b.jpg", "degrade"), item_seed(1, "a.jpg", "crop")}
    assert item_seed(1, "a.jpg", "degrade") not in others
    assert len(others) == 3
    assert all(0 <= seed < 2**63 for seed in others)
