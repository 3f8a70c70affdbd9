// Uploads pictures, follows the job and shows the model. A job stands in the address, so that a reload finds it again.

const element = (id) => document.getElementById(id);
const form = element("form");
let job = null;

function field(name, spec) {
    const label = document.createElement("label");
    const title = document.createElement("span");
    title.textContent = name.replaceAll("_", " ");
    const choices = spec.enum;
    const input = document.createElement(choices ? "select" : "input");
    input.name = name;
    if (choices) {
        input.append(new Option("default", ""), ...choices.map((choice) => new Option(choice, choice)));
    } else if (spec.type === "boolean") {
        input.type = "checkbox";
        input.value = "true";
        label.className = "flag";
    } else {
        input.placeholder = String(spec.default ?? "");
        input.inputMode = spec.type === "integer" || spec.type === "number" ? "decimal" : "text";
    }
    const help = document.createElement("small");
    help.textContent = spec.description ?? "";
    label.append(...(spec.type === "boolean" ? [input, " ", title] : [title, input]), help);
    return label;
}

async function answered(response) {
    const body = await response.json();
    if (!response.ok) throw new Error(body.detail ?? response.statusText);
    return body;
}

async function addParameters() {
    const { generate } = await answered(await fetch("parameters"));
    for (const [name, spec] of Object.entries(generate.properties)) element(spec["x-tier"]).append(field(name, spec));
}

function showProblem(text) {
    element("problem").hidden = !text;
    element("problem").textContent = text;
}

function showThumbs() {
    const pictures = [...element("picture").files].map((file) => {
        const image = new Image();
        image.src = URL.createObjectURL(file);
        return image;
    });
    element("thumbs").replaceChildren(...pictures);
}

async function send(event) {
    event.preventDefault();
    const sent = new FormData();
    for (const [name, value] of new FormData(form)) if (value !== "") sent.append(name, value);
    showProblem("");
    element("go").disabled = true;
    element("status").textContent = "Sending ...";
    try {
        const queued = await answered(await fetch("generate", { method: "POST", body: sent }));
        location.hash = queued.id;
        await follow(queued);
    } catch (error) {
        element("status").textContent = "Refused.";
        showProblem(error.message);
    } finally {
        element("go").disabled = false;
    }
}

async function follow(found) {
    job = found;
    element("view").replaceChildren();
    element("links").replaceChildren();
    element("bar").hidden = false;
    element("cancel").hidden = false;
    while (job.status === "queued" || job.status === "running") {
        tell(job);
        await new Promise((resolve) => setTimeout(resolve, 700));
        job = await answered(await fetch(`jobs/${job.id}`));
    }
    element("bar").hidden = true;
    element("cancel").hidden = true;
    tell(job);
    showProblem(job.problem?.detail ?? "");
    if (job.status === "done") await show(job);
}

function tell(job) {
    const left = job.seconds_left == null ? "" : `, about ${Math.ceil(job.seconds_left)} s left`;
    const said = {
        queued: `Waiting, ${job.ahead} before it.`,
        running: `${job.stage || "Beginning"}, step ${job.step ?? 0} of ${job.steps ?? 0}${left}`,
        done: `Done in ${job.seconds} s: ${job.facts?.faces?.toLocaleString()} ${job.facts?.faces === 1 ? "face" : "faces"}.`,
    };
    element("status").textContent = said[job.status] ?? `The job is ${job.status}.`;
    const bar = element("bar");
    if (job.seconds_left == null) bar.removeAttribute("value");
    else bar.value = job.seconds / (job.seconds + job.seconds_left);
}

async function show(job) {
    const links = Object.entries(job.files).map(([name, file]) => {
        const link = document.createElement("a");
        link.href = `jobs/${job.id}/${name}`;
        link.download = name;
        link.textContent = `${name} (${(file.bytes / 1e6).toFixed(2)} MB)`;
        return link;
    });
    element("links").replaceChildren(...links);
    try {
        await draw(`jobs/${job.id}/model.glb`);
    } catch (error) {
        console.warn("The model is not drawn:", error);
        const note = document.createElement("small");
        note.textContent = "To turn the model here, run npm install --prefix serving/web on the server.";
        element("links").append(note);
        if (job.files["preview.png"]) {
            const image = new Image();
            image.src = `jobs/${job.id}/preview.png`;
            element("view").replaceChildren(image);
        }
    }
    document.body.dataset.shown = job.id;
}

async function draw(url) {
    const THREE = await import("three");
    const { GLTFLoader } = await import("three/addons/loaders/GLTFLoader.js");
    const { OrbitControls } = await import("three/addons/controls/OrbitControls.js");
    const { RoomEnvironment } = await import("three/addons/environments/RoomEnvironment.js");
    const view = element("view");
    const renderer = new THREE.WebGLRenderer({ antialias: true, alpha: true });
    renderer.setPixelRatio(devicePixelRatio);
    const scene = new THREE.Scene();
    renderer.toneMapping = THREE.NeutralToneMapping;
    scene.environmentIntensity = 0.6;
    scene.environment = new THREE.PMREMGenerator(renderer).fromScene(new RoomEnvironment()).texture;
    const model = (await new GLTFLoader().loadAsync(url)).scene;
    scene.add(model);
    const camera = new THREE.PerspectiveCamera(35, 1, 0.01, 100);
    const controls = new OrbitControls(camera, renderer.domElement);
    const ball = new THREE.Box3().setFromObject(model).getBoundingSphere(new THREE.Sphere());
    controls.target.copy(ball.center);
    camera.position.copy(ball.center).add(new THREE.Vector3(0.6, 0.45, 1).setLength(ball.radius * 3.1));
    controls.autoRotate = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    view.replaceChildren(renderer.domElement);
    const fit = () => {
        renderer.setSize(view.clientWidth, view.clientHeight, false);
        camera.aspect = view.clientWidth / Math.max(1, view.clientHeight);
        camera.updateProjectionMatrix();
    };
    new ResizeObserver(fit).observe(view);
    fit();
    renderer.setAnimationLoop(() => {
        if (!renderer.domElement.isConnected) {
            renderer.setAnimationLoop(null);
            renderer.dispose();
            return;
        }
        controls.update();
        renderer.render(scene, camera);
    });
}

form.addEventListener("submit", send);
element("picture").addEventListener("change", showThumbs);
element("cancel").addEventListener("click", () => fetch(`jobs/${job.id}/cancel`, { method: "POST" }));
for (const [kind, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    element("drop").addEventListener(kind, (event) => {
        event.preventDefault();
        element("drop").classList.toggle("over", over);
        if (kind === "drop" && event.dataTransfer.files.length) {
            element("picture").files = event.dataTransfer.files;
            showThumbs();
        }
    });
}
await addParameters();
if (/^#[0-9a-f]{32}$/.test(location.hash)) {
    try {
        await follow(await answered(await fetch(`jobs/${location.hash.slice(1)}`)));
    } catch (error) {
        showProblem(error.message);
    }
}
