"""The networks that papers on private inference measure, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from builder import Builder, Tensor
from planned import ALL_RELU, Plan

Layers = Callable[[Builder, Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """A network with random weights: its layers, from images to scores, and its images' size."""

    about: str
    layers: Layers
    side: int
    activations: int
    """Values of one image that pass an activation, counted by hand: what is built must agree."""
    like: str | None = None
    """The network whose images and random numbers this one has too."""


def minionn(b: Builder, x: Tensor, plan: Plan = ALL_RELU) -> Tensor:
    """The seven-convolution network of MiniONN (Liu et al., 2017) and Delphi (2020).

    Every 3x3 convolution is padded by one pixel; the pools take means. Each activation layer
    follows the plan.
    """

    def layer(x: Tensor, channels: int, size: int) -> Tensor:
        return b.relu(b.convolution(x, channels, size, norm=False), plan)

    x = layer(layer(x, 64, 3), 64, 3)
    x = layer(layer(b.average_pool(x, 2), 64, 3), 64, 3)
    x = layer(layer(layer(b.average_pool(x, 2), 64, 3), 64, 1), 16, 1)
    return b.dense(b.flatten(x), 10)


def _basic_block(b: Builder, x: Tensor, channels: int, stride: int) -> Tensor:
    """Two 3x3 convolutions beside the identity or a projection (He et al., 2016, figure 2)."""
    y = b.relu(b.convolution(x, channels, 3, stride))
    y = b.convolution(y, channels, 3)
    if stride != 1 or x.channels != channels:
        x = b.convolution(x, channels, 1, stride)
    return b.relu(b.add(y, x))


def _bottleneck(b: Builder, x: Tensor, channels: int, stride: int) -> Tensor:
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, the stride in the middle (version 1.5)."""
    y = b.relu(b.convolution(x, channels, 1))
    y = b.relu(b.convolution(y, channels, 3, stride))
    y = b.convolution(y, 4 * channels, 1)
    if stride != 1 or x.channels != 4 * channels:
        x = b.convolution(x, 4 * channels, 1, stride)
    return b.relu(b.add(y, x))


def _residual(
    b: Builder,
    x: Tensor,
    block: Callable[[Builder, Tensor, int, int], Tensor],
    groups: list[tuple[int, int]],
    classes: int,
) -> Tensor:
    """Groups of (channels, blocks), each but the first halving the image; mean; dense layer."""
    for number, (channels, blocks) in enumerate(groups):
        for index in range(blocks):
            x = block(b, x, channels, 2 if number > 0 and index == 0 else 1)
    return b.dense(b.flatten(b.global_average_pool(x)), classes)


def resnet32(b: Builder, x: Tensor) -> Tensor:
    """ResNet-32 for small images (He et al., 2016, section 4.2), with projections, 100 classes."""
    x = b.relu(b.convolution(x, 16, 3))
    return _residual(b, x, _basic_block, [(16, 5), (32, 5), (64, 5)], 100)


def resnet18(b: Builder, x: Tensor, classes: int) -> Tensor:
    """ResNet-18 (He et al., 2016, table 1) with the stem for small images: 3x3, no pool."""
    x = b.relu(b.convolution(x, 64, 3))
    return _residual(b, x, _basic_block, [(64, 2), (128, 2), (256, 2), (512, 2)], classes)


def resnet50(b: Builder, x: Tensor) -> Tensor:
    """ResNet-50 (He et al., 2016, table 1), 1000 classes."""
    x = b.max_pool(b.relu(b.convolution(x, 64, 7, stride=2)), 3, 2, pad=1)
    return _residual(b, x, _bottleneck, [(64, 3), (128, 4), (256, 6), (512, 3)], 1000)


def vgg16(b: Builder, x: Tensor) -> Tensor:
    """VGG-16 (Simonyan & Zisserman, 2015, configuration D), normalised, narrow dense layers."""
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = b.relu(b.convolution(x, channels, 3))
        x = b.max_pool(x, 2, 2)
    x = b.relu(b.dense(b.flatten(x), 512))
    return b.dense(b.relu(b.dense(x, 512)), 10)


def mobilenetv2(b: Builder, x: Tensor) -> Tensor:
    """MobileNetV2 (Sandler et al., 2018, table 2), width 1.0, 1000 classes."""

    def inverted(x: Tensor, expansion: int, channels: int, stride: int) -> Tensor:
        wide = expansion * x.channels
        y = b.relu6(b.convolution(x, wide, 1)) if expansion > 1 else x
        y = b.relu6(b.convolution(y, wide, 3, stride, groups=wide))
        y = b.convolution(y, channels, 1)
        return b.add(x, y) if stride == 1 and x.channels == channels else y

    x = b.relu6(b.convolution(x, 32, 3, stride=2))
    for expansion, channels, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(count):
            x = inverted(x, expansion, channels, stride if index == 0 else 1)
    x = b.relu6(b.convolution(x, 1280, 1))
    return b.dense(b.flatten(b.global_average_pool(x)), 1000)


def squeezenet(b: Builder, x: Tensor) -> Tensor:
    """SqueezeNet 1.1 (Iandola et al., 2016, and its authors' later version), 1000 classes."""

    def layer(
        x: Tensor,
        channels: int,
        size: int,
        stride: int = 1,
        pad: int | None = None,
        gain: float = 1,
    ) -> Tensor:
        return b.relu(b.convolution(x, channels, size, stride, pad, norm=False, gain=gain))

    def fire(x: Tensor, squeeze: int, expand: int) -> Tensor:
        x = layer(x, squeeze, 1)
        return b.concat(layer(x, expand, 1), layer(x, expand, 3))

    x = b.max_pool(layer(x, 64, 3, stride=2, pad=0), 3, 2, ceil=True)
    x = b.max_pool(fire(fire(x, 16, 64), 16, 64), 3, 2, ceil=True)
    x = b.max_pool(fire(fire(x, 32, 128), 32, 128), 3, 2, ceil=True)
    x = fire(fire(fire(fire(x, 48, 192), 48, 192), 64, 256), 64, 256)
    # The mean over the image takes most of the spread away again.
    return b.flatten(b.global_average_pool(layer(x, 1000, 1, gain=4)))


def _planned(about: str, plan: Plan) -> Network:
    """MiniONN's network with a plan."""
    return Network(f"minionn, {about}", partial(minionn, plan=plan), 32, 173_056, like="minionn")


def _share(relu: float) -> Plan:
    """A share of ReLUs; of the others a third has degree 2, half degree 1, a sixth is constant."""
    rest = 1 - relu
    return Plan(square=rest / 3, linear=rest / 2, constant=rest / 6)


NETWORKS = {
    "minionn": Network("MiniONN and Delphi's seven convolutions", minionn, 32, 173_056),
    "minionn-relu75": _planned("ReLU in 75 % of all channels", _share(0.75)),
    "minionn-relu50": _planned("ReLU in 50 % of all channels", _share(0.5)),
    "minionn-mixed": _planned("25 % ReLU, 25 % of degree 2, 50 % of degree 1 or 0", _share(0.25)),
    "minionn-relu10": _planned("ReLU in 10 % of all channels", _share(0.1)),
    "minionn-relu0": _planned("no ReLU", _share(0)),
    "minionn-square": _planned("degree 2 in all channels", Plan(square=1)),
    "resnet32": Network("ResNet-32, 100 classes", resnet32, 32, 303_104),
    "vgg16": Network("VGG-16", vgg16, 32, 277_504),
    "resnet18": Network("ResNet-18", partial(resnet18, classes=10), 32, 557_056),
    "resnet18-tiny": Network(
        "ResNet-18, 200 classes", partial(resnet18, classes=200), 64, 2_228_224
    ),
    "mobilenetv2": Network("MobileNetV2, 1000 classes", mobilenetv2, 224, 6_105_792),
    "squeezenet": Network("SqueezeNet 1.1, 1000 classes", squeezenet, 224, 2_589_352),
    "resnet50": Network("ResNet-50 version 1.5, 1000 classes", resnet50, 224, 9_608_704),
}
