"""EXIF of views, read back by COLMAP's own reader and by Pillow; EXIF of sources, written by Pillow."""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
