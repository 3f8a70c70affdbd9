// Gives each socket type of the pack a colour of its own.
import { app } from "../../../scripts/app.js";

// Generated from nodes/sockets.py by `python tests/generate_texts.py`.
const COLORS = {
    T2_MODELS: "#7e6bd6",
    T2_VIEWS: "#3f51b5",
    T2_CAMERAS: "#7a1f2b",
    T2_CONDITION: "#c6a700",
    T2_SAMPLER: "#a1887f",
    T2_STRUCTURE: "#78909c",
    T2_SHAPE: "#4dd0e1",
    T2_TEXTURE: "#f06292",
    T2_SUBDIVISION: "#aed581",
    T2_MESH: "#26a69a",
    T2_VOXELS: "#ff7b3a",
    T2_TEXTURED_MESH: "#ba68c8",
    T2_SCENE: "#d4e157",
};

function color() {
    Object.assign(app.canvas.default_connection_color_byType, COLORS);
    Object.assign(app.canvas.constructor.link_type_colors, COLORS);
    for (const [type, value] of Object.entries(COLORS)) {
        document.documentElement.style.setProperty(`--color-datatype-${type}`, value);
    }
    app.canvas.setDirty(true, true);
}

const extension = {
    name: "trellis2.stages.colors",
    setup: color,
    // a colour palette that is loaded after the setup wipes the colours of all types it does not know
    afterConfigureGraph: color,
};

// a second copy of the pack brings this file once more, and the editor refuses a name that it has
if (!app.extensions?.some((each) => each.name === extension.name)) {
    app.registerExtension(extension);
}
