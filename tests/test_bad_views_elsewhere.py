"""Pictures of views that do not belong together, through nodes and as jobs of the service: told in words there, too."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from meshes import needs_warp
from sides import before, lit, mirrored, renders, rough

from pipeline.errors import ImageError
from pipeline.views import View

pytestmark = needs_warp


def _pictures(case):
    """(picture, mask or None) from the front, the left and the back."""
    chair, hammer, teapot = (renders()[name] for name in ("chair", "hammer", "teapot"))
    plain = [before(each, np.full((160, 160, 3), (200.0, 205, 210))) for each in hammer]
    masks = [each.getchannel("A") for each in hammer]
    return {
        "good": [(each, None) for each in chair[:3]],
        "different objects": [(chair[0], None), (teapot[1], None), (chair[2], None)],
        "one twice": [(chair[0], None), (chair[1], None), (chair[0], None)],
        "mirrored": [(hammer[0], None), (mirrored(hammer[0]), None), (hammer[2], None)],
        "other light": [(chair[0], None), (lit(chair[1], (0.15, 0.15, 0.15)), None), (chair[2], None)],
        "mask of another view": [(plain[0], masks[1]), (plain[1], masks[1]), (plain[2], masks[2])],
        "background": [(before(renders()["car"][0], rough()), None), (chair[1], None), (chair[2], None)],
    }[case]


TOLD = [
    ("good", None),
    ("different objects", "differ"),
    ("one twice", "front and back are the same picture"),
    ("mirrored", "left is front mirrored"),
    ("other light", "different lights"),
    ("mask of another view", "front: the mask does not fit"),
]


def _image(picture):
    """As ComfyUI has it [1, H, W, C]."""
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)[None]


def _views(host, given):
    """What T2Views says of pictures from the front, the left and the back."""
    named = {}
    for side, (picture, mask) in zip(("front", "left", "back"), given):
        mask = mask or (picture.getchannel("A") if picture.mode == "RGBA" else None)
        named[side] = _image(picture.convert("RGB"))
        if mask is not None:
            named[f"{side}_mask"] = _image(mask)
    return host.call("T2Views", **named, mask_marks="object")[0].remarks


@pytest.mark.parametrize(("case", "words"), TOLD)
def test_the_node_of_views_tells_what_does_not_fit(host, case, words):
    remarks = _views(host, _pictures(case))
    assert remarks == () if words is None else any(words in remark for remark in remarks), remarks


def test_nodes_refuse_a_photograph_with_its_background(host):
    with pytest.raises(Exception, match="background"):
        _views(host, _pictures("background"))
    with pytest.raises(Exception, match="background"):
        host.call("T2PrepareImage", image=_image(_pictures("background")[0][0]), background="plain")
    with pytest.raises(Exception, match="background"):
        host.call("T2ProjectTexture", textured_mesh=None, image=_image(_pictures("background")[0][0]))


def test_nodes_tell_of_many_views_and_of_one_twice(host):
    turned = [renders()["rings"][0].resize((48, 48)).rotate(number) for number in range(9)]
    batch = torch.cat([_image(each) for each in turned])
    directions = "; ".join(f"{40 * number},10" for number in range(9))
    remarks = host.call("T2Views", other=batch, other_views=directions)[0].remarks
    assert any(remark.startswith("9 views: ") for remark in remarks)
    with pytest.raises(Exception, match="`other` holds 9 pictures, `other_views` names 2"):
        host.call("T2Views", other=batch, other_views="0; 90")
    for given, words in (
        ({"views": "0; 90"}, r"9 pictures and 2 views \(0 90\)"),
        ({"cameras": ()}, "as many cameras, got 0"),
    ):
        with pytest.raises(Exception, match=words):
            host.call("T2ProjectTexture", textured_mesh=None, image=batch, **given)


# --- the service


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """service(pictures, **parameters): what a job's worker hands to the pipeline; nothing is sampled."""
    making = pytest.importorskip("serving.making")
    from serving.settings import WorkerSettings

    maker = making.Maker(WorkerSettings(tmp_path_factory.mktemp("results").as_uri(), device="cpu"))
    files = tmp_path_factory.mktemp("sent")

    def run(given, **parameters):
        inputs = {"pictures": [], "masks": []}
        for number, pair in enumerate(given):
            for kind, image in zip(("pictures", "masks"), pair):
                if image is not None:
                    image.save(files / "x.png")
                    maker.store.put("in", files / "x.png", f"{kind}-{number}")
                    inputs[kind].append(["in", f"{kind}-{number}"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(making, "make_object", lambda run, models, images, *rest: _taken(images))
            patch.setattr(maker, "_write", lambda *rest: None)
            patch.setattr(maker, "_stored", lambda *rest: {})
            return maker.make(
                {"id": "job", "command": "generate", "parameters": parameters, "inputs": inputs}, lambda step: None
            )["facts"]

    return run


def _taken(images):
    from pipeline.make.from_pictures import several_views

    plan = SimpleNamespace(tried=(), as_dict=dict)
    return SimpleNamespace(plan=plan, facts=several_views(images), refused=(), result=None)


@pytest.mark.parametrize(("case", "words"), TOLD)
def test_a_job_tells_what_does_not_fit(service, case, words):
    told = service(_pictures(case), views=["front", "left", "back"]).get("remarks", [])
    assert told == [] if words is None else any(words in remark for remark in told), told


def test_a_job_refuses_a_photograph_with_its_background(service):
    with pytest.raises(ImageError, match="background is not plain"):
        service(_pictures("background"), views=["front", "left", "back"], background="plain")


def test_a_job_tells_of_many_views(service):
    turned = [(renders()["rings"][0].resize((48, 48)).rotate(number), None) for number in range(9)]
    told = service(turned, views=[f"{View(40 * number, 10).azimuth:g},10" for number in range(9)])["remarks"]
    assert any(remark.startswith("9 views: ") for remark in told)
