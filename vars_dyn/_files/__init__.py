"""Write files and folders so that each appears whole or not at all."""

from vars_dyn._files.locks import lock
from vars_dyn._files.pictures import is_our_picture
from vars_dyn._files.places import StoreError, check_place, explained
from vars_dyn._files.single import open_new, sync, write_bytes
from vars_dyn._files.workplaces import Workplace, replacing, replacing_folder, tidy, tidy_all, write_text

__all__ = [
    "StoreError",
    "Workplace",
    "check_place",
    "explained",
    "is_our_picture",
    "lock",
    "open_new",
    "replacing",
    "replacing_folder",
    "sync",
    "tidy",
    "tidy_all",
    "write_bytes",
    "write_text",
]
