// Shows the text that a node of the pack reports, such as what was made of a mesh, on the node itself.
import { app } from "../../../scripts/app.js";
import { ComfyWidgets } from "../../../scripts/widgets.js";

const REPORT = "report_text"; // the widget's name: that of an input would take its place in a saved graph

function report(node, text) {
    let widget = node.widgets?.find((each) => each.name === REPORT);
    if (!widget) {
        widget = ComfyWidgets.STRING(node, REPORT, ["STRING", { multiline: true }], app).widget;
        widget.serialize = false; // neither in the graph nor in its prompt
        widget.options.serialize = false;
        widget.options.read_only = true;
        const box = widget.element ?? widget.inputEl;
        box.readOnly = true;
        box.style.opacity = 0.75;
    }
    widget.value = text;
    app.canvas.setDirty(true, true);
}

app.registerExtension({
    name: "trellis2.stages.report",
    beforeRegisterNodeDef(nodeType, { name }) {
        if (!name.startsWith("T2")) return;
        const before = nodeType.prototype.onExecuted;
        // also comes when the result is from the cache, and for nodes that run inside of this one
        nodeType.prototype.onExecuted = function (output) {
            before?.apply(this, arguments);
            if (output?.text?.length) report(this, output.text.join("\n\n"));
        };
    },
});
