"""What a graph looks like in the editor: its note, and rows of groups of columns of nodes.

A whole graph can be read in a window of 1600 x 1000 pixels.
"""

NOTE = "note"  # the place of the note in a layout

# What the note in a graph says, in Markdown.
NOTES = {
    "image_to_glb": """
## Image to GLB

A picture with a transparent background (or a mask) in, a textured GLB out. For a photograph take **photo_to_glb**,
for many objects **many_pictures**.

**checkpoint**: *small* comes with the pack: 8 M parameters, trained on simple, procedurally generated objects. It makes
real but simple objects (tables, mugs, rockets, ...) within a minute, even on a CPU. Choose
**microsoft/TRELLIS.2-4B** for any object (16 GB download on the first run).
""",
    "photo_to_glb": """
## Photo to GLB

For pictures with a background: ComfyUI's own **Remove Background** cuts the object out. Its model,
birefnet.safetensors, belongs into *models/background_removal*; the editor offers the download when it is missing.

Its mask is 1 where the object is, Load Image's where the background is: **Invert Mask** stands between. Look at the
preview of the mask first: what is black there will be missing in 3D.
""",
    "many_pictures": """
## Many pictures, many objects

A **list** makes an object of each picture, one after the other (a *batch* would be several views of one object).
Connect more Load Image nodes to both lists, pictures and masks in the same order: each list grows by an input when
its last one is used.

Every GLB is written to output/3d; Preview 3D shows one of them.
""",
    "geometry_only": """
## Geometry only

The shape without texture: no texture models are used.
""",
    "all_stages": """
## Every stage

The whole pipeline, one node a stage. Change a setting and only what comes after it runs again.

The samplers take the settings that the checkpoint brings. To change them, connect a **TRELLIS.2 Sampler Settings**
to their input *sampler*.
""",
    "draft_then_cascade": """
## Draft, then cascade

Top: a quick 512 draft of the structure. Bottom: the same structure as the checkpoint says, with texture: the 1024
cascade with microsoft/TRELLIS.2-4B. The small checkpoint has 512 alone and makes the same shape twice.

To look at drafts of several seeds first, select the nodes of the lower part and bypass them (Ctrl+B).
""",
    "draft_then_finish": """
## Draft today, finish tomorrow

Left: what needs the networks; **Save State** keeps the raw mesh and its voxels in the output folder. Right: what needs
none. Tomorrow, put the file's path into **Open State** in place of the link and bypass the left part (Ctrl+B): other
faces, shells and textures of the same object, in seconds.
""",
    "views_to_glb": """
## Several views to GLB

Pictures of one object from named sides: **front**, **left** (the object's own left, which is on the right hand side of
the front view), **back**, **right**, or any direction by azimuth and elevation. **Views** brings them to one scale and
says below itself what does not fit together.

The first picture is the primary view, which the structure follows; the shape takes at each place the views that see it.
""",
    "turntable_video": """
## Turntable video

**Render Mesh** draws the object from all round; ComfyUI's own **Create Video** and **Save Video** make a film of the
frames: 48 at 12 a second are one turn of four seconds. For a light of your own connect an equirectangular picture to
*environment*.
""",
    "project_texture": """
## The picture on the object

**Project Texture** puts the picture itself onto the baked texture: as sharp as the picture where it sees the object.
What it does not show keeps the generated texture. The camera is found by comparing silhouettes and colours, here near
the front, as a rocket looks alike from four sides; with *views* empty it is looked for all round. A picture that fits
from nowhere is refused.

Connect the picture as it was loaded: the cropped one has 1,024 pixels at most.
""",
    "texture_my_mesh": """
## Texture my mesh

Put the file into the *input* folder and its name into **Load Mesh**. The picture says what it is to look like; the
GLB comes back with its own nodes, transforms and UVs. Meshes without UVs: **uvs** to *fill*.
""",
    "repaint_part": """
## Repaint a part

The mask lies in the mesh's UVs. Open the base colour (an output of **Load Mesh**) in the mask editor and paint over
what is to be new: all else stays to the bit, as long as **texture_size** is the texture's own. White vertex colours, or
names of mesh nodes, can say it too.
""",
    "refine_my_mesh": """
## Refine my mesh

The mesh's voxels stay, its shape is sampled anew from a start that is noised by **strength**: 0 changes nothing, 0.3 to
0.7 makes details anew, 1 keeps the voxels alone. A mask, or names of mesh nodes, in **Encode Mesh** say what keeps its
shape; connect the scene there, too.

**place** of Export GLB puts the result where the file has the mesh.
""",
    "core_mesh_interop": """
## ComfyUI's own mesh nodes

Our mesh goes through a mesh node of ComfyUI (here Fill Holes) and comes back to be baked. Needs a ComfyUI of 2026.
""",
}
# name -> rows of groups (title, columns of node ids)
LAYOUTS = {
    "image_to_glb": [[("Picture", [[NOTE, "1"]]), ("Object", [["2"]]), ("Result", [["3"]])]],
    "photo_to_glb": [
        [("Picture", [[NOTE, "1"]]), ("Cut out", [["2", "3", "4", "7"]]), ("Object", [["5"]]), ("Result", [["6"]])]
    ],
    "many_pictures": [
        [("Pictures", [[NOTE], ["1", "2"]]), ("Lists", [["3", "4"]]), ("Objects", [["5"]]), ("Result", [["6"]])]
    ],
    "geometry_only": [
        [
            ("1 Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("2 Structure", [["5"]]),
            ("3 Shape", [["6", "7"]]),
            ("4 Mesh", [["8", "9"]]),
            ("Result", [["10"]]),
        ]
    ],
    "all_stages": [
        [
            ("1 Picture", [["1", "3"], ["19", NOTE], ["2", "4"]]),
            ("2 Structure", [["5"]]),
            ("3 Shape", [["9", "11"]]),
            ("4 Texture", [["10", "12"]]),
        ],
        [
            ("5 Mesh", [["13"]]),
            ("6 Bake", [["14", "17"], ["18", "22"]]),
            ("7 Pictures", [["20"], ["21"]]),
            ("8 File", [["15"], ["16"]]),
        ],
    ],
    "draft_then_cascade": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Structure", [["5"]]),
            ("Draft", [["6", "7"], ["8"], ["9"], ["10"]]),
        ],
        [
            ("Final shape", [["11", "13"]]),
            ("Final texture", [["12", "14"]]),
            ("Final mesh", [["15"], ["16"]]),
            ("Final file", [["17"], ["18"]]),
        ],
    ],
    "draft_then_finish": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Sample", [["5"], ["6", "7"]]),
            ("Decode", [["8", "9"]]),
            ("Today", [["10"]]),
        ],
        [
            ("Tomorrow", [["11"], ["12"], ["13"]]),
            ("File", [["14"], ["15"]]),
        ],
    ],
    "views_to_glb": [
        [
            ("1 Views", [[NOTE, "4"], ["1"], ["2"], ["3"], ["5"]]),
        ],
        [
            ("2 Structure", [["6", "7"]]),
            ("3 Shape", [["8", "10"]]),
            ("4 Texture", [["9", "11"]]),
            ("5 Mesh", [["12"], ["13", "16"]]),
            ("6 File", [["14"], ["15"]]),
        ],
    ],
    "turntable_video": [
        [
            ("1 Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("2 Structure", [["5"]]),
            ("3 Shape", [["6", "8"]]),
            ("4 Texture", [["7", "9"]]),
        ],
        [
            ("5 Mesh", [["10"], ["11"]]),
            ("6 File", [["12"], ["13"]]),
            ("7 Video", [["14"], ["15", "16"]]),
        ],
    ],
    "project_texture": [
        [
            ("1 Picture", [["1", "3"], [NOTE], ["2", "4"]]),
            ("2 Structure", [["5"]]),
            ("3 Shape", [["9", "11"]]),
            ("4 Texture", [["10", "12"]]),
        ],
        [
            ("5 Mesh", [["13"]]),
            ("6 Bake", [["14", "17"]]),
            ("7 Projection", [["23"], ["18"]]),
            ("8 File", [["15"], ["16"]]),
        ],
    ],
    "texture_my_mesh": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Mesh", [["5", "6"]]),
            ("Result", [["7"]]),
        ]
    ],
    "repaint_part": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Mesh and mask", [["5", "6"]]),
            ("Repainted", [["7"], ["8"]]),
        ]
    ],
    "refine_my_mesh": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Mesh", [["5"], ["6"]]),
            ("Shape", [["7", "9"]]),
        ],
        [
            ("Texture", [["8", "10"]]),
            ("Finish", [["11"], ["12"]]),
            ("File", [["13"], ["14"]]),
        ],
    ],
    "core_mesh_interop": [
        [
            ("1 Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("2 Structure", [["5"]]),
            ("3 Shape", [["6", "8"]]),
            ("4 Texture", [["7", "9"]]),
        ],
        [
            ("5 Mesh", [["10"]]),
            ("6 ComfyUI's mesh nodes", [["11", "12", "13"]]),
            ("7 Bake", [["14"]]),
            ("8 File", [["15"], ["16"]]),
        ],
    ],
}
