"""T2LoadPictures: a folder of pictures as a list, with names for their objects; unusable ones are skipped."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io
from PIL import Image

from ..pipeline.batch import Recipe, find_pictures, plan_jobs
from ..pipeline.errors import ImageError, PipelineError, SettingsError
from ..pipeline.image import KINDS, MAX_SIDE, Remover, background_remover, cut_out, has_transparency, read_picture
from ..pipeline.runtime import free_memory
from ..pipeline.words import counted
from .host import output, pictures
from .host.progress import Progress
from .picture import CURES
from .sockets import CATEGORY, advanced, aliases, node_schema

_SHOWN = 20  # skipped pictures that the report names


class LoadPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2LoadPictures",
            display_name="TRELLIS.2 Load Pictures",
            category=CATEGORY,
            **aliases("load folder, batch of images, image list, directory, many images"),
            description="Loads all pictures of a folder as a list, for an object of each, and names each object after "
            "its picture. Pictures that cannot be read or cut out are left out, and the node says why.",
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder below ComfyUI's input folder, searched with all that is below it; empty: the "
                    "input folder itself.",
                ),
                io.String.Input(
                    "prefix",
                    default="3d/",
                    tooltip="What stands before each picture's name in filename_prefix: a folder below ComfyUI's "
                    "output folder, or the start of a name.",
                ),
                advanced(
                    io.Combo.Input(
                        "background",
                        options=list(KINDS),
                        default="auto",
                        tooltip="How a background is removed from pictures without transparency; plain: one colour or "
                        "a smooth gradient; rembg: by a model; auto: plain if possible, else rembg if it is installed.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    is_output_list=True,
                    tooltip="A list of RGBA cut-outs, an object each; they need no mask.",
                ),
                io.String.Output(
                    display_name="filename_prefix",
                    is_output_list=True,
                    tooltip="The list of their names, for the filename_prefix of Image to GLB or of an export node.",
                ),
                io.String.Output(display_name="report", tooltip="How many there are, and what is wrong with others."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = "", prefix: str | None = "3d/") -> bool | str:
        # None: linked, and not known yet; execute looks again
        if folder is not None and (problem := _why_not(folder)):
            return problem
        return True if prefix is None else output.why_not(f"{prefix}name") or True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = "", **_) -> str:
        """Changes with the folder: names, sizes and times of its files."""
        if folder is None or _why_not(folder):
            return ""
        files = sorted(path for path in _place(folder).rglob("*") if path.is_file())
        return "\n".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)

    @classmethod
    def execute(cls, folder: str = "", prefix: str = "3d/", background: str = "auto") -> io.NodeOutput:
        if problem := _why_not(folder) or output.why_not(f"{prefix}name"):
            raise SettingsError(problem)
        progress, remover = Progress(), background_remover(background, cures=CURES)
        written = Path(folder_paths.get_output_directory())
        jobs = plan_jobs(find_pictures([_place(folder)], written), written, Recipe(), seed=0)
        _check_memory(len(jobs))
        images, names, problems = [], [], []
        for number, job in enumerate(jobs):
            progress.show(number / len(jobs))
            try:
                images.append(pictures.to_image([_cut(read_picture(job.picture), remover)]))
                names.append(prefix + job.name)
            except ImageError as error:
                problems.append(str(error))
        progress.show(1)
        report = _report(len(jobs), problems)
        if not images:
            raise ImageError(report)
        return io.NodeOutput(images, names, report, ui={"text": [report]})


def _cut(picture: Image.Image, remover: Remover) -> Image.Image:
    """RGBA of at most MAX_SIDE, whose alpha cuts the object out; one that is so already stays as it is, to the bit.
    Raises ImageError if there is no object."""
    cut = cut_out(picture, None, remover)
    return picture if has_transparency(picture) and max(picture.size) <= MAX_SIDE else cut


def _check_memory(count: int) -> None:
    """Raises SettingsError where the list would not fit: ComfyUI keeps all of it until the graph is done."""
    size, free = count * MAX_SIDE**2 * 16, free_memory()  # RGBA in float32
    if size > free / 2:
        raise SettingsError(
            f"{count:,} pictures can take {size / 1e9:.1f} GB as a list; {free / 1e9:.1f} GB of memory are free. Load "
            "fewer at once, or take the command line: python -m pipeline batch."
        )


def _report(count: int, problems: list[str]) -> str:
    lines = [f"{count - len(problems)} of {counted(count, 'picture')}", *problems[:_SHOWN]]
    return "\n".join([*lines, f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else lines)


def _place(folder: str) -> Path:
    return Path(folder_paths.get_input_directory(), folder.strip())


def _why_not(folder: str) -> str:
    """Why a folder cannot be searched, or "" if it can; nothing outside of the input folder can."""
    top = Path(folder_paths.get_input_directory()).resolve()
    try:
        place = _place(folder).resolve()
        if not place.is_relative_to(top):
            return f"folder {folder!r} leads out of ComfyUI's input folder; name one below it."
        if not place.is_dir():
            return f"There is no folder {folder!r} in ComfyUI's input folder. Put the pictures into one there."
        find_pictures([place], Path(folder_paths.get_output_directory()))
    except PipelineError as error:
        return str(error)
    except (OSError, ValueError) as error:  # a zero byte, links in a circle
        return f"folder {folder!r} cannot be used: {error}."
    return ""
