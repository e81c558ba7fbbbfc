"""A ResNet-56 trained on CIFAR-10, as a user would bring a network of her own: the one real encoder of the tests."""

import os
from pathlib import Path

from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import pad, relu

SAMPLES = Path(os.environ.get("MEDPROBE_SAMPLES", Path(__file__).resolve().parents[2] / "shared" / "data"))


class Block(nn.Module):
    def __init__(self, narrow, wide, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide)
        self.stride, self.extra = stride, (wide - narrow) // 2

    def forward(self, x):
        made = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return relu(made + pad(short, (0, 0, 0, 0, self.extra, self.extra)))


class ResNet56(nn.Module):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage, (narrow, wide) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = [Block(narrow if i == 0 else wide, wide, 2 if i == 0 and stage > 1 else 1) for i in range(9)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))

    def forward_dense(self, x):
        return self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(x))))))

    def forward(self, x):
        return self.forward_dense(x).mean(dim=(2, 3))


def make_encoder():
    net = ResNet56()
    weights = load_file(SAMPLES / "weights_small" / "resnet56_cifar10.safetensors")
    net.load_state_dict({name: value for name, value in weights.items() if not name.startswith("linear")}, strict=False)
    return net
