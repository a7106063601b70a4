"""Networks of timm by name: what fits, what is refused in one sentence, their weights."""

from pathlib import Path

import pytest
import timm
import torch

from semipose.configs.load import InputError
from semipose.models.backbones import timm_networks
from semipose.models.backbones.resnet import ResNetSettings
from semipose.models.backbones.timm_features import TimmSettings
from semipose.models.heads.deconv import DeconvSettings
from semipose.models.heads.plain import PlainSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import NetSettings, build_net

FEATURES = {  # timm name: channels, strides
    "vit_tiny_patch16_224": ((192,), (16,)),
    "xcit_nano_12_p8_224": ((128,), (8,)),  # has no option for its input's size and needs none
    "convnext_atto": ((40, 80, 160, 320), (4, 8, 16, 32)),
    "efficientnet_b0": ((24, 40, 112, 320), (4, 8, 16, 32)),
    "mobilenetv3_small_050": ((8, 16, 24, 288), (4, 8, 16, 32)),
    "swin_tiny_patch4_window7_224": ((96, 192, 384, 768), (4, 8, 16, 32)),  # its own features: channels last
}


@pytest.mark.parametrize("model", FEATURES)
def test_features_have_their_channels_and_strides(model: str) -> None:
    backbone = TimmSettings(model=model).build().train()
    channels, strides = FEATURES[model]
    assert (backbone.channels, backbone.strides) == (channels, strides)
    features = backbone(torch.randn(2, 3, 72, 92))
    coarsest = strides[-1]
    padded = [-(-size // coarsest) * coarsest for size in (72, 92)]
    assert [tuple(feature.shape) for feature in features] == [
        (2, c, padded[0] // s, padded[1] // s) for c, s in zip(channels, strides, strict=True)
    ]
    sum(feature.square().mean() for feature in features).backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]


def test_features_are_those_of_timm(tmp_path: Path) -> None:
    """Of a file with its classifier; and of a ViT the last block's, normalised, without the class token."""
    images = torch.randn(1, 3, 224, 224)
    for model in ("mobilenetv3_small_050", "vit_tiny_patch16_224"):
        theirs = timm.create_model(model).eval()
        torch.save(theirs.state_dict(), tmp_path / f"{model}.pth")
        ours = TimmSettings(model=model).build(weights=tmp_path / f"{model}.pth").eval()
        with torch.no_grad():
            found = ours(images)[-1]
            if model == "vit_tiny_patch16_224":
                expected = theirs.forward_features(images)[:, 1:].transpose(1, 2).reshape(1, 192, 14, 14)
            else:
                expected = theirs.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(found, expected)


def test_a_resnet_by_either_name_is_the_same(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet10t.pth")
    settings = (ResNetSettings(model="resnet10t"), TimmSettings(model="resnet10t"))
    first, second = (each.build(weights=tmp_path / "resnet10t.pth").eval() for each in settings)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(first(images), second(images), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_weights_come_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224").state_dict()
    torch.save(theirs, tmp_path / "cached.pth")
    monkeypatch.setattr(timm_networks.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(timm_networks, "try_to_load_from_cache", lambda *_: str(tmp_path / "cached.pth"))
    ours = TimmSettings(model="vit_tiny_patch16_224").build(pretrained=True).network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("vit_tiny_patch16_225", "no model 'vit_tiny_patch16_225'.* for instance vit_tiny_patch16_224"),
        ("ResNet18", "no model 'ResNet18'.* for instance resnet18"),
        ("hf-hub:someone/something", "no model"),
        ("convnext_atto.nowhere", r"Invalid pretrained tag.*convnext_atto\.d2_in1k"),
        ("convit_tiny", r"'convit_tiny' gives no usable features for an input of 128 x 96.*doesn't match"),
        ("inception_v3", r"'inception_v3' gives no usable features.*their sizes are"),
    ],
)
def test_what_timm_cannot_give_is_refused_in_one_sentence(model: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        build_net(NetSettings(backbone=TimmSettings(model=model)), 17)
    assert str(caught.value).startswith("net.backbone.model: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "head", "said"),
    [
        (TimmSettings(model="vit_tiny_patch16_224"), PyramidSettings(), "must be 4 but is 16"),
        (TimmSettings(model="vit_tiny_patch16_224"), PlainSettings(), "these are at stride 16"),
        (TimmSettings(model="convmixer_768_32"), DeconvSettings(), "impossible from stride 7"),
        (ResNetSettings(model="resnet10t"), PlainSettings(), "these are at stride 4, 8, 16, 32"),
    ],
)
def test_a_head_that_does_not_fit_names_both_settings(
    backbone: TimmSettings | ResNetSettings,
    head: DeconvSettings | PyramidSettings | PlainSettings,
    said: str,
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        build_net(NetSettings(backbone=backbone, head=head), 17)
    assert f"net.head '{head.name}' does not fit net.backbone '{backbone.name}'" in str(caught.value)


def test_deconv_takes_two_steps_from_stride_16() -> None:
    net = build_net(NetSettings(backbone=TimmSettings(model="vit_tiny_patch16_224")), 17)
    assert len(net.get_submodule("head.deconvs")) == 2  # type: ignore[arg-type]
