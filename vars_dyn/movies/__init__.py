"""Movies, frame by frame: files of a camera, folders of images, and TIFFs of many pages.

A `MovieReader` gives any frame by its number, and holds only a few at a time, so that the memory does not grow with the
movie. Files of a camera want PyAV (`pip install 'vars_dyn[movies]'`), which decodes by frame number exactly: it gives
the time stamp of each frame and seeks by it. Readers that only step through a movie, as imageio does, cannot.
"""

from vars_dyn.movies.reader import MovieReader, frames, is_movie
from vars_dyn.movies.source import MOVIE_SUFFIXES
from vars_dyn.movies.video import pyav

__all__ = ["MOVIE_SUFFIXES", "MovieReader", "frames", "is_movie", "pyav"]
