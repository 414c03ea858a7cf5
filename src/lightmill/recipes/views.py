"""Views on their way out: cut, encoded, with masks and sidecars."""

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.encode import encode, encode_mask
from lightmill.codecs.exif import SourceTags, camera_exif
from lightmill.engine.buffers import Buffers
from lightmill.engine.items import Notes
from lightmill.export import realityscan
from lightmill.ops.antialias import Antialias, samples_per_side
from lightmill.ops.cover import ownership_mask
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import Interpolation, ViewMaps, inner
from lightmill.ops.sphere_torch import ViewCutter
from lightmill.recipes.previews import preview
from lightmill.types import Size

PREVIEW_PX = 240


class Cut:
    """Takes one view of a panorama with OpenCV, from maps that are built once."""

    def __init__(self, rig: Rig, interpolation: Interpolation, antialias: Antialias) -> None:
        self._size = rig.size
        self._interpolation = interpolation
        self._antialias = antialias
        self._maps = ViewMaps(rig)

    def view(self, pano: NDArray[np.uint8], camera: Camera, buffers: Buffers) -> NDArray[np.uint8]:
        """[h, w, 3] uint8."""
        out = buffers.take((self._size.height, self._size.width, 3))
        samples = samples_per_side(self._antialias, camera, self._size, pano_width=pano.shape[1])
        return self._maps.cut(pano, camera, interpolation=self._interpolation, samples=samples, out=out)

    def mask(self, pano_mask: NDArray[np.uint8], camera: Camera) -> NDArray[np.uint8]:
        """[h, w] uint8, nearest neighbour."""
        return self._maps.cut_mask(pano_mask, camera)


class DeviceCut:
    """All views of several panoramas at once, on the accelerator; an item that does not fit there, with OpenCV.

    `torch:cpu` is torch on the CPU: for tests, on machines without an accelerator.
    """

    def __init__(self, rig: Rig, interpolation: Interpolation, antialias: Antialias) -> None:
        self._rig = rig
        self._interpolation = interpolation
        self._antialias = antialias
        self._cutter: ViewCutter | None = None
        self._on_cpu: Cut | None = None

    def load(self, device: str) -> None:
        self._cutter = self._on_cpu = None
        if device == "cpu":
            self._on_cpu = Cut(self._rig, self._interpolation, self._antialias)
            return
        self._cutter = ViewCutter(self._rig, interpolation=self._interpolation.value, samples=self._samples)
        self._cutter.load(device.removeprefix("torch:"))

    def unload(self) -> None:
        if self._cutter:
            self._cutter.unload()
        self._cutter = self._on_cpu = None

    def __call__(self, pano: list[NDArray[np.uint8]]) -> list[dict[str, NDArray[np.uint8]]]:
        if self._cutter:
            return self._cutter([inner(padded) for padded in pano])
        assert self._on_cpu, "load() comes before the first batch; please report this as a bug"
        cut, fresh = self._on_cpu, Buffers()
        return [{camera.name: cut.view(padded, camera, fresh) for camera in self._rig.cameras} for padded in pano]

    def _samples(self, camera: Camera, size: Size, pano_width: int) -> int:
        return samples_per_side(self._antialias, camera, size, pano_width=pano_width)


def view_of(device_views: Mapping[str, NDArray[np.uint8]], camera: Camera) -> NDArray[np.uint8]:
    """The camera's view, of those that the device has cut."""
    return device_views[camera.name]


class Exifs:
    """The EXIF block of every camera; only what the source adds differs between pictures."""

    def __init__(self, rig: Rig) -> None:
        def block(camera: Camera, tags: SourceTags) -> bytes:
            return camera_exif(size=rig.size, focal_px=camera.focal_px(rig.size.width), rig_name=rig.name, tags=tags)

        self.of = lru_cache(maxsize=4 * len(rig.cameras))(block)


def encode_view(
    view: NDArray[np.uint8], camera: Camera, tags: SourceTags, *, options: Mapping[str, Any], exifs: Exifs
) -> bytes:
    return encode(view, exif=exifs.of(camera, tags), **options)


def encode_polar(mask_view: NDArray[np.uint8], *, polarity: str) -> bytes:
    return encode_mask(mask_view if polarity == "keep-white" else 255 - mask_view)


class Owned:
    """COLMAP's masks: each direction is kept in one camera only, so that overlapping views give no double points."""

    def __init__(self, rig: Rig) -> None:
        self._index = {camera.name: i for i, camera in enumerate(rig.cameras)}
        self._mask = cache(lambda index: ownership_mask(rig, index))
        self._file = cache(lambda index: encode_mask(self._mask(index)))

    def alone(self, camera: Camera) -> bytes:
        return self._file(self._index[camera.name])

    def and_masked(self, camera: Camera, mask_view: NDArray[np.uint8]) -> bytes:
        return encode_mask(np.minimum(self._mask(self._index[camera.name]), mask_view))


class Sidecars:
    """RealityScan's XMP beside every view: the views of one panorama are one instance of the rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._guid = realityscan.rig_guid(rig)
        self._index = {camera.name: i for i, camera in enumerate(rig.cameras)}

    def of(self, camera: Camera, key: str) -> bytes:
        instance = realityscan.instance_guid(self._guid, key)
        index = self._index[camera.name]
        text = realityscan.xmp(camera, self._rig, rig_id=self._guid, instance_id=instance, pose_index=index)
        return text.encode()


def preview_view(view: NDArray[np.uint8], camera: Camera, notes: Notes) -> None:
    preview(notes, camera.name, view, PREVIEW_PX)
