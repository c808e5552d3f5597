"""`FeatureSpec`: level, channels, stride and dilation of a feature map, declared by the backbone or neck."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureSpec:
    """Geometry of one feature map.

    Attributes:
        name: key of the map in the dict that a backbone or neck returns ("c4", "p4").
        level: the number in the name. It decides anchor size and RoI level, whatever the stride.
        channels: number of channels.
        stride: input pixels per cell.
        dilation: dilation of the last convolutions of the stage that computes the map (1 for a neck).
    """

    name: str
    level: int
    channels: int
    stride: int
    dilation: int = 1
